"""The whole pipeline against MLflow on PostgreSQL and S3, behind a password, each server restarted in mid-run."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
from mlflow import MlflowClient

from convloop.core.history import read_history
from tests.conftest import Convloop, environment
from tests.servers.services import SECRETS, Servers, started

pytestmark = [pytest.mark.system, pytest.mark.slow]


def _while_running(
    project: Path, servers: Servers, words: list[str], moment: str, disturb: Callable[[], None]
) -> "subprocess.CompletedProcess[str]":
    """Run a command, disturb it once it has printed `moment`, and wait for its end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "convloop", *words],
        cwd=project,
        env=environment(project, **servers.user),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = []
    with process.stdout:
        for line in process.stdout:
            said.append(line)
            if moment in line:
                disturb()
                moment = "\0"
    return subprocess.CompletedProcess(words, process.wait(300), "".join(said))


def test_pipeline_survives_a_restart_of_each_server(
    project: Path, convloop: Convloop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started() as servers:
        anonymous = convloop("models", MLFLOW_TRACKING_URI=servers.http_uri)
        assert (anonymous.returncode, anonymous.stderr) == (
            5,
            f"convloop: MLflow at {servers.http_uri} does not let this user in. Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to what its administrator gave you, then run the same command again.\n",
        )

        for word in ("generate", "prepare"):
            done = convloop(word, **servers.user)
            assert done.returncode == 0, done.stderr

        def crash_all() -> None:
            servers.mlflow.stop(signal.SIGKILL)
            servers.s3.stop(signal.SIGKILL)
            servers.postgres.stop(signal.SIGQUIT)
            for service in (servers.postgres, servers.s3, servers.mlflow):
                service.start()

        words = ["train", "--set", "train.epochs=30", "--set", "train.keep=last"]
        trained = _while_running(project, servers, words, "epoch 2/", crash_all)
        assert trained.returncode == 0, trained.stdout
        synced = convloop("sync", **servers.user)
        assert synced.returncode == 0, synced.stderr

        servers.postgres.stop(signal.SIGQUIT)
        servers.postgres.start()
        servers.s3.stop()
        servers.s3.start()
        for word in ("evaluate", "register"):  # nothing of ours, nor of MLflow's server, needs to be started again
            done = convloop(word, **servers.user)
            assert done.returncode == 0, done.stderr
        again = convloop("register", **servers.user)
        assert again.returncode == 0, again.stderr

        for name, value in servers.user.items():
            monkeypatch.setenv(name, value)
        client = MlflowClient(servers.http_uri)
        experiment = client.get_experiment_by_name("small")
        (run,) = client.search_runs([experiment.experiment_id])
        history = read_history(project / "reports/train/history.csv")
        points = client.get_metric_history(run.info.run_id, "val/accuracy")
        (version,) = client.search_model_versions("name = 'small'")
        bucket = boto3.client(
            "s3",
            endpoint_url=servers.operator["MLFLOW_S3_ENDPOINT_URL"],
            region_name="us-east-1",
            aws_access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
        )
        stored = bucket.list_objects_v2(
            Bucket="mlflow", Prefix=f"artifacts/{experiment.experiment_id}/{run.info.run_id}/"
        )
        bucket.close()
        assert run.info.status == "FINISHED"
        assert run.info.artifact_uri == f"mlflow-artifacts:/{experiment.experiment_id}/{run.info.run_id}/artifacts"
        assert len(history) == 30
        assert [point.step for point in points] == list(range(1, 31))
        assert sorted(client.get_registered_model("small").aliases) == ["candidate", "champion"]
        assert version.run_id == run.info.run_id
        assert any(entry["Key"].endswith("/artifacts/model/MLmodel") for entry in stored["Contents"])
