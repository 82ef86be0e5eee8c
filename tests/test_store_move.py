"""Moving the store to a server: everything is there as it was, twice adds nothing, conflicts stop it whole.

The database here is another SQLite, which the same code writes; tests/servers moves to PostgreSQL and S3.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag

from convloop import store
from convloop.errors import TrackingError
from convloop.stores.move import move
from convloop.stores.rows import TABLES
from tests.conftest import Convloop
from tests.test_store_keeping import filled


@pytest.fixture
def server(tmp_path: Path, migrated_store: Path) -> Path:
    """The database of a server on which nobody has worked yet."""
    database = tmp_path / "server.db"
    shutil.copy(migrated_store, database)
    return database


def rows(database: Path, table: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return sorted(connection.execute(f"select * from {table}"), key=repr)


def add_inputs(client: MlflowClient, run_id: str) -> None:
    dataset = Dataset("data/raw", "d" * 32 + ".dir", "dvc", "data/raw")
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def test_everything_arrives_as_it_was(project: Path, server: Path, convloop: Convloop) -> None:
    client = filled(project)
    runs = client.search_runs(["1"])
    add_inputs(client, runs[0].info.run_id)
    client.delete_run(runs[1].info.run_id)
    answer = convloop("store", "move", f"sqlite:///{server}", "--artifacts", str(project.parent / "bucket"))
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.splitlines()[:2] == [
        "Moved 2 runs (6 metric points), 1 versions, 1 aliases and 2 files: every row and file is there, compared. "
        "New there: 24 rows, 2 files.",
        "Kept as the server has them: 1 of experiments.",
    ]
    for table in set(TABLES) - {"experiments", "runs", "model_versions"}:
        assert rows(server, table) == rows(project / "mlruns/mlflow.db", table), table
    there = MlflowClient(f"sqlite:///{server}")
    for run in runs:
        moved = there.get_run(run.info.run_id)
        assert moved.data.to_dictionary() == run.data.to_dictionary()
        assert moved.inputs.to_dictionary() == client.get_run(run.info.run_id).inputs.to_dictionary()
        assert moved.info.artifact_uri == f"mlflow-artifacts:/1/{run.info.run_id}/artifacts"
        assert (moved.info.start_time, moved.info.end_time, moved.info.status) == (
            run.info.start_time,
            run.info.end_time,
            run.info.status,
        )
        assert (project.parent / f"bucket/1/{run.info.run_id}/artifacts/model/weights.txt").is_file()
    version = there.get_model_version_by_alias("small", "champion")
    before = client.get_model_version_by_alias("small", "champion")
    assert version.source == f"mlflow-artifacts:/1/{version.run_id}/artifacts/model"
    assert (version.creation_timestamp, version.tags, version.run_id) == (
        before.creation_timestamp,
        before.tags,
        before.run_id,
    )


def test_moving_twice_adds_nothing_and_later_runs_follow(project: Path, server: Path, tmp_path: Path) -> None:
    client = filled(project)
    first = move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    again = move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    run = client.create_run("1", run_name="later").info.run_id
    client.set_terminated(run, "FAILED")
    third = move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    assert (first.added_count, first.sent_count, first.file_count) == (21, 2, 2)
    assert (again.added_count, again.sent_count, again.file_count) == (0, 0, 2)
    assert (third.added_count, third.sent_count) == (2, 0)
    assert MlflowClient(f"sqlite:///{server}").get_run(run).info.status == "FAILED"


def test_what_the_server_did_since_is_kept(project: Path, server: Path, tmp_path: Path) -> None:
    client = filled(project)
    move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    there = MlflowClient(f"sqlite:///{server}")
    run = client.search_runs(["1"])[0].info.run_id
    there.set_tag(run, "note", "of the server")
    moved = move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    assert moved.kept == {"experiments": 1, "tags": 1}
    assert there.get_run(run).data.tags["note"] == "of the server"


def test_experiments_of_two_projects_find_their_place(project: Path, server: Path, tmp_path: Path) -> None:
    """The server has another project's experiment under our number, and ours under another one with the same data."""
    there = MlflowClient(f"sqlite:///{server}")
    there.create_experiment("of somebody else")
    same = there.create_experiment("small")
    theirs = there.create_run(same).info.run_id
    add_inputs(there, theirs)
    client = filled(project)
    other = client.create_experiment("small-retraining")
    retraining = client.create_run(other).info.run_id
    client.set_terminated(retraining)
    run = client.search_runs(["1"])[0].info.run_id
    add_inputs(client, run)
    move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    moved = there.get_run(run)
    assert moved.info.experiment_id == same == "2"
    assert moved.info.artifact_uri == f"mlflow-artifacts:/2/{run}/artifacts"
    assert [entry.dataset.name for entry in moved.inputs.dataset_inputs] == ["data/raw"]
    assert [entry.dataset.name for entry in there.get_run(theirs).inputs.dataset_inputs] == ["data/raw"]
    assert there.get_run(retraining).info.experiment_id == "3"
    assert [experiment.name for experiment in there.search_experiments(order_by=["experiment_id"])] == [
        "Default",
        "of somebody else",
        "small",
        "small-retraining",
    ]
    assert there.create_experiment("the next one") == "4"


def test_another_version_under_our_number_stops_it_whole(project: Path, server: Path, tmp_path: Path) -> None:
    filled(project)
    there = MlflowClient(f"sqlite:///{server}")
    run = there.create_run("0").info
    there.create_registered_model("small")
    there.create_model_version("small", f"{run.artifact_uri}/model", run.run_id)
    with pytest.raises(TrackingError) as raised:
        move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    assert str(raised.value) == (
        f"sqlite:///{server} has another small version 1, of run {run.run_id}. Nothing was moved. "
        "Move to an empty database, or register under another name from now on: register.model_name"
    )
    assert [len(rows(server, "runs")), (tmp_path / "bucket").exists()] == [1, False]


def test_open_run_stops_it(project: Path, server: Path, tmp_path: Path) -> None:
    run = filled(project).create_run("1", run_name="training").info.run_id
    with pytest.raises(TrackingError) as raised:
        move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    assert str(raised.value) == (
        f"1 runs are open, such as training ({run[:8]}): their end would not be moved. "
        "Let them end; what no process writes any more is closed by: convloop doctor"
    )
    assert rows(server, "runs") == []


def test_server_of_another_schema_is_not_migrated(project: Path, server: Path, tmp_path: Path) -> None:
    filled(project)
    with closing(sqlite3.connect(server)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'f00d'")
    with pytest.raises(
        TrackingError, match=f"^sqlite:///{server} cannot be used: Detected out-of-date database schema"
    ):
        move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        (
            "http://ann:secret@mlflow:5000",
            "http://mlflow:5000 is the server's address; over it every run would get another id. Name its database and "
            "bucket: convloop store move postgresql+psycopg://mlflow@host/mlflow --artifacts s3://bucket/prefix",
        ),
        (
            "postgresql://ann:secret@host/mlflow",
            "postgresql://host/mlflow is no database that the store can move to. Allowed: "
            "postgresql+psycopg://user@host/database (password in PGPASSWORD), sqlite:////absolute/path.db",
        ),
    ],
)
def test_what_is_no_database_is_refused(project: Path, tmp_path: Path, uri: str, said: str) -> None:
    filled(project)
    with pytest.raises(TrackingError) as raised:
        move(project, uri, str(tmp_path / "bucket"))
    assert str(raised.value) == said


def test_store_does_not_move_onto_itself(project: Path, tmp_path: Path) -> None:
    filled(project)
    with pytest.raises(TrackingError) as raised:
        move(project, store.tracking_uri(project), str(tmp_path / "bucket"))
    assert str(raised.value) == f"The store is at {store.tracking_uri(project)} already."


def test_bucket_that_cannot_be_written_leaves_the_server_as_it_is(project: Path, server: Path, tmp_path: Path) -> None:
    filled(project)
    (tmp_path / "bucket").write_text("in the way")
    with pytest.raises(TrackingError) as raised:
        move(project, f"sqlite:///{server}", str(tmp_path / "bucket"))
    assert str(raised.value).startswith(f"{tmp_path}/bucket cannot be written: ")
    assert str(raised.value).endswith("Nothing of the database was moved.")
    assert rows(server, "runs") == []
