"""A store moved to PostgreSQL and S3: the server has it all, and the project goes on with it."""

import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from convloop.ledger import Ledger
from tests.conftest import Convloop
from tests.servers.services import SECRETS, started

pytestmark = [pytest.mark.system, pytest.mark.slow]


def test_moved_store_is_the_servers(trained: Path, convloop: Convloop, monkeypatch: pytest.MonkeyPatch) -> None:
    registered = convloop("register")
    assert registered.returncode == 0, registered.stderr
    row = Ledger(trained).begin("by hand", None)
    local = MlflowClient(f"sqlite:///{trained}/mlruns/mlflow.db")
    (before,) = local.search_runs(["1"])
    points = local.get_metric_history(before.info.run_id, "val/accuracy")
    with started() as servers:
        words = ("store", "move", servers.database_uri, "--artifacts", "s3://mlflow/artifacts")
        keyless = convloop(*words)
        moved = convloop(*words, **servers.operator)
        again = convloop(*words, **servers.operator)
        assert keyless.returncode == 5
        assert keyless.stderr.endswith(
            "Is it up, is PGPASSWORD set, is psycopg there (pip install 'convloop[server]')? Nothing was moved.\n"
        )
        assert "Traceback" not in keyless.stderr
        assert (moved.returncode, moved.stderr) == (0, "")
        assert moved.stdout.startswith("Moved 1 runs (")
        assert again.stdout.splitlines()[0].endswith("New there: 0 rows, 0 files.")
        assert SECRETS["POSTGRES_PASSWORD"] not in keyless.stderr + moved.stdout

        models = convloop("models", **servers.user)
        rejudged = convloop("register", **servers.user)
        assert "@champion" in models.stdout
        assert rejudged.returncode == 0, rejudged.stderr

        for name, value in servers.user.items():
            monkeypatch.setenv(name, value)
        there = MlflowClient(servers.http_uri)
        (run,) = there.search_runs([there.get_experiment_by_name("small").experiment_id])
        (version,) = there.search_model_versions("name = 'small'")
        model = there.get_model_version_download_uri("small", "1")
        assert run.info.run_id == before.info.run_id
        assert run.data.params == before.data.params
        assert [vars(point) for point in there.get_metric_history(run.info.run_id, "val/accuracy")] == [
            vars(point) for point in points
        ]
        assert sorted(there.get_registered_model("small").aliases) == ["candidate", "champion"]
        assert version.run_id == before.info.run_id
        assert model == f"mlflow-artifacts:/{run.info.experiment_id}/{run.info.run_id}/artifacts/model"
        assert there.create_experiment("the next one") == str(int(run.info.experiment_id) + 1)
        dumped = subprocess.run(
            ["grep", "-rlF", SECRETS["MLFLOW_AUTH_ADMIN_PASSWORD"], str(trained)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert dumped.stdout == ""
    assert [entry.id for entry in Ledger(trained).rows()] == [row]
