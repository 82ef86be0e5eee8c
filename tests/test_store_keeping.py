"""Backups of the local store: whole while it is in use, checked before they come back, refused where they would lose."""

import io
import json
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import threading
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from convloop import store
from convloop.errors import ConvloopError, DataError, OutputError, TrackingError
from convloop.ledger import Ledger
from convloop.stores.backup import back_up
from convloop.stores.database import counts
from convloop.stores.restore import restore
from convloop.stores.upgrade import upgrade
from tests.conftest import Convloop

_OLD_SCHEMA = "0584bdc529eb"  # of early 2025, before the tables of logged models


def filled(project: Path) -> MlflowClient:
    """Fill the project's store with two runs, metrics, inputs, a version, aliases and files, and the ledger with a row."""
    client = store.connect(project, 5)
    place = (store.folder(project) / "artifacts").as_uri()
    experiment = client.create_experiment("small", artifact_location=place)
    for index in range(2):
        run = client.create_run(experiment, run_name=f"run {index}", start_time=1_700_000_000_000 + index).info
        client.log_batch(
            run.run_id, metrics=[Metric("loss", 1 / step, 1_700_000_000_000 + step, step) for step in (1, 2, 3)]
        )
        client.log_param(run.run_id, "lr", "0.1")
        client.set_tag(run.run_id, "note", "ü")
        client.log_text(run.run_id, f"weights {index}", "model/weights.txt")
        client.set_terminated(run.run_id, "FINISHED", end_time=1_700_000_009_000)
    client.create_registered_model("small")
    client.create_model_version("small", f"{run.artifact_uri}/model", run.run_id, tags={"digest": "abc"})
    client.set_registered_model_alias("small", "champion", "1")
    ledger = Ledger(project)
    row = ledger.begin("by hand", None)
    assert row is not None
    ledger.end(row, "finished", "Promoted.")
    return client


def content(project: Path) -> dict[str, list[tuple[object, ...]]]:
    """Read every row of the store and the ledger."""
    rows: dict[str, list[tuple[object, ...]]] = {}
    for file in (store.folder(project) / "mlflow.db", project / "work/retraining.db"):
        with closing(sqlite3.connect(file)) as connection:
            names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
            rows |= {name: sorted(connection.execute(f"select * from {name}"), key=repr) for name in names}
    return rows


def weights(client: MlflowClient, project: Path) -> str:
    """Read the file of the champion through MLflow."""
    uri = client.get_model_version_download_uri("small", "1")
    return (Path(uri.removeprefix("file://")) / "weights.txt").read_text()


def test_backup_comes_back_as_it_was(project: Path, convloop: Convloop) -> None:
    client = filled(project)
    before = content(project)
    made = convloop("store", "backup", "kept.tar")
    shutil.rmtree(project / "mlruns")
    shutil.rmtree(project / "work")
    restored = convloop("store", "restore", "kept.tar")
    assert (made.returncode, made.stdout, made.stderr) == (
        0,
        "kept.tar: 2 runs, 1 versions, 2 files, the ledger.\n",
        "",
    )
    assert (restored.returncode, restored.stdout) == (0, "Restored 2 runs, 1 versions, 2 files.\n"), restored.stderr
    assert content(project) == before
    assert weights(client, project) == "weights 1"
    with closing(sqlite3.connect(project / "mlruns/mlflow.db")) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)


def test_backup_comes_back_in_another_folder(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(project)
    file = back_up(project).file
    other = tmp_path / "other"
    restore(other, file)
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(project)
    client = store.connect(other, 5)
    assert weights(client, other) == "weights 1"
    assert sorted(str(path.relative_to(other)) for path in other.rglob("weights.txt")) == sorted(
        f"mlruns/artifacts/1/{run.info.run_id}/artifacts/model/weights.txt" for run in client.search_runs(["1"])
    )


def test_restore_into_an_unchanged_store_changes_nothing_and_keeps_it_aside(project: Path) -> None:
    filled(project)
    file = back_up(project).file
    before = content(project)
    restored = restore(project, file)
    assert content(project) == before
    assert restored.aside is not None
    assert restored.aside.is_file()


def test_restore_is_seen_by_who_has_the_store_open(project: Path) -> None:
    client = filled(project)
    file = back_up(project).file
    client.set_registered_model_alias("small", "previous", "1")
    restore(project, file)
    assert client.get_registered_model("small").aliases == {"champion": 1}
    client.set_registered_model_alias("small", "candidate", "1")
    assert store.connect(project, 5).get_registered_model("small").aliases == {"champion": 1, "candidate": 1}


def test_restore_refuses_to_lose_runs_versions_and_retrainings(project: Path) -> None:
    client = filled(project)
    file = back_up(project).file
    run = client.create_run("1").info
    client.create_model_version("small", f"{run.artifact_uri}/model", run.run_id)
    Ledger(project).begin("by hand", None)
    before = content(project)
    with pytest.raises(TrackingError) as raised:
        restore(project, file)
    started = content(project)["retraining"][1][5]
    assert str(raised.value) == (
        f"The store {project}/mlruns/mlflow.db has what {file} lacks: 1 runs ({run.run_id[:8]}), 1 model versions (small 2), "
        f"1 retrainings (2 {str(started)[:8]}). Keep both: restore in another clone. Or restore here, with this store "
        f"backed up first: convloop store restore {file} --force"
    )
    assert content(project) == before


def test_forced_restore_can_be_taken_back(project: Path) -> None:
    client = filled(project)
    file = back_up(project).file
    client.create_run("1")
    before = content(project)
    aside = restore(project, file, force=True).aside
    assert len(client.search_runs(["1"])) == 2
    assert aside is not None
    restore(project, aside)
    assert content(project) == before


def test_backup_made_while_others_write_is_whole(project: Path, tmp_path: Path) -> None:
    """Every run that a backup knows has its file: MLflow here writes the file first, then the tag."""
    client = filled(project)
    ended = threading.Event()

    def write() -> None:
        while not ended.is_set():
            run = client.create_run("1").info.run_id
            client.log_text(run, run * 1000, "text.txt")
            client.set_tag(run, "has_text", "yes")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        files = [back_up(project).file for _ in range(3)]
    finally:
        ended.set()
        writer.join()
    for index, file in enumerate(files):
        other = tmp_path / f"other {index}"
        restore(other, file)
        client = store.connect(other, 5)
        runs = client.search_runs(["1"], "tags.has_text = 'yes'")
        texts = [Path(run.info.artifact_uri.removeprefix("file://").replace("%20", " ")) / "text.txt" for run in runs]
        assert [text.read_text() for text in texts] == [run.info.run_id * 1000 for run in runs]
    assert len(runs) > 0


@pytest.mark.parametrize("damage", ["cut", "flip", "other", "unlisted"])
def test_damaged_backup_is_refused(project: Path, damage: str) -> None:
    filled(project)
    file = back_up(project).file
    before = content(project)
    data = bytearray(file.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "flip":
        data[data.index(b"weights 1")] ^= 1
    elif damage == "other":
        data = bytearray(b"no tar at all" * 100)
    file.write_bytes(data)
    if damage == "unlisted":
        with tarfile.open(file, "w") as archive:
            archive.addfile(tarfile.TarInfo("readme"), io.BytesIO())
    with pytest.raises(DataError) as raised:
        restore(project, file)
    run = next(name for name in str(raised.value).split() if name.startswith("artifacts/")) if damage == "flip" else ""
    assert str(raised.value) == {
        "cut": f"{file} is damaged, or no backup of convloop: unexpected end of data. Use another one.",
        "flip": f"{file} is damaged: {run} does not have the checksum of its manifest. Use another one.",
        "other": f"{file} is damaged, or no backup of convloop: file could not be opened successfully. Use another one.",
        "unlisted": f"{file} is no whole backup: it has no manifest. Use another one.",
    }[damage].replace(
        "file could not be opened successfully",
        str(raised.value).partition("convloop: ")[2].removesuffix(". Use another one."),
    )
    assert content(project) == before


def test_absent_backup_is_a_message(project: Path, convloop: Convloop) -> None:
    answer = convloop("store", "restore", "none.tar")
    assert (answer.returncode, answer.stderr) == (
        3,
        "convloop: none.tar does not exist. List the backups: ls mlruns/backups\n",
    )


def test_backup_of_another_schema_is_refused(project: Path) -> None:
    filled(project)
    file = back_up(project).file
    folder = project / "unpacked"
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
        names = archive.getnames()
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema": "f00d"}))
    with tarfile.open(file, "w") as archive:
        for name in names:
            archive.add(folder / name, name)
    with pytest.raises(TrackingError) as raised:
        restore(project, file)
    assert str(raised.value) == (
        f"{file} has the schema f00d, MLflow {version('mlflow')} works on {store.newest_schema()}. Install the MLflow that "
        "the backup's store was used with, restore, install the newer one, then: convloop store upgrade"
    )


def test_damaged_store_is_replaced_only_under_force(project: Path) -> None:
    client = filled(project)
    file = back_up(project).file
    before = content(project)
    del client
    database = project / "mlruns/mlflow.db"
    for left in database.parent.glob("mlflow.db-*"):
        left.unlink()
    database.write_bytes(b"no database" * 1000)
    with pytest.raises(DataError) as raised:
        restore(project, file)
    aside = restore(project, file, force=True).aside
    assert str(raised.value) == (
        f"The store {database} cannot be read (file is not a database), so it may have runs that {file} lacks. "
        f"Restore anyway, with the damaged one set aside: convloop store restore {file} --force"
    )
    assert content(project) == before
    assert aside is not None
    assert aside.read_bytes() == b"no database" * 1000


def test_backup_never_overwrites(project: Path) -> None:
    filled(project)
    (project / "kept.tar").write_text("mine")
    with pytest.raises(OutputError) as raised:
        back_up(project, project / "kept.tar")
    assert (
        str(raised.value)
        == f"{project}/kept.tar exists. Name another file, or a folder: convloop store backup {project}"
    )


def test_backup_of_a_server_is_for_its_own_tools(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@mlflow:5000")
    with pytest.raises(TrackingError) as raised:
        back_up(project)
    assert str(raised.value) == (
        "The MLflow store is http://mlflow:5000; convloop store keeps stores on SQLite. "
        "A server is kept with the tools of its database and bucket: docs/servers.md"
    )


def test_backup_before_the_first_run_is_a_message(project: Path) -> None:
    (project / "mlruns/mlflow.db").unlink()
    with pytest.raises(TrackingError) as raised:
        back_up(project)
    assert str(raised.value) == f"There is no store {project}/mlruns/mlflow.db yet. Its first run makes it: make repro"


def _make_old(database: Path) -> None:
    """Make a store of an older MLflow: its first tables and migrations, without those of the last years."""
    program = f"""
import sqlalchemy as sa
from alembic import command
from mlflow.store.db.utils import _get_alembic_config
from mlflow.store.tracking.dbmodels.initial_models import Base
engine = sa.create_engine("sqlite:///{database}")
Base.metadata.create_all(engine)
config = _get_alembic_config("sqlite:///{database}")
with engine.begin() as connection:
    config.attributes["connection"] = connection
    command.upgrade(config, "{_OLD_SCHEMA}")
with engine.begin() as connection:
    connection.execute(sa.text("insert into experiments (experiment_id, name, artifact_location, lifecycle_stage) "
        "values (0, 'Default', '/nowhere', 'active'), (7, 'old', '/nowhere', 'active')"))
    connection.execute(sa.text("insert into runs (run_uuid, name, experiment_id, status, start_time, lifecycle_stage, artifact_uri)"
        " values ('{"a" * 32}', 'old run', 7, 'FINISHED', 1, 'active', '/nowhere/{"a" * 32}/artifacts')"))
    connection.execute(sa.text("insert into metrics (key, value, timestamp, run_uuid, step, is_nan) "
        "values ('m', 0.5, 12, '{"a" * 32}', 3, 0)"))
"""
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


@pytest.fixture
def old_store(project: Path) -> Path:
    database = project / "mlruns/mlflow.db"
    database.unlink()
    _make_old(database)
    return database


def test_store_of_an_older_mlflow_is_not_migrated_in_passing(project: Path, old_store: Path) -> None:
    with pytest.raises(TrackingError) as raised:
        store.connect(project, 5)
    assert str(raised.value) == (
        f"The MLflow store {old_store} has the schema {_OLD_SCHEMA}, MLflow {version('mlflow')} works on "
        f"{store.newest_schema()}. Bring it up, with a backup made first: convloop store upgrade"
    )
    assert store.schema(old_store) == _OLD_SCHEMA


@pytest.mark.slow
def test_upgrade_keeps_all_and_gives_the_way_back(project: Path, old_store: Path, convloop: Convloop) -> None:
    before = counts(old_store)
    answer = convloop("store", "upgrade")
    again = convloop("store", "upgrade")
    (file,) = (project / "mlruns/backups").iterdir()
    assert (answer.returncode, answer.stdout, answer.stderr) == (
        0,
        f"Upgraded. The way back: install the MLflow of before, then: convloop store restore {file} --force\n",
        "",
    )
    assert again.stdout == "The store is of the installed MLflow's schema already.\n"
    client = store.connect(project, 5)
    assert {name: count for name, count in counts(old_store).items() if name in before} == before
    assert [(point.value, point.timestamp, point.step) for point in client.get_metric_history("a" * 32, "m")] == [
        (0.5, 12, 3)
    ]
    with tarfile.open(file) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        assert json.load(manifest)["schema"] == _OLD_SCHEMA


@pytest.mark.slow
def test_store_of_a_newer_mlflow_is_left_alone(project: Path) -> None:
    database = project / "mlruns/mlflow.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("update alembic_version set version_num = 'f00d'")
    with pytest.raises(ConvloopError) as raised:
        upgrade(project)
    assert str(raised.value).startswith(f"MLflow {version('mlflow')} cannot migrate {database}: ")
    assert str(raised.value).endswith("The store is as it was. Was it made by a newer MLflow? Then install that one.")
    assert store.schema(database) == "f00d"


def test_the_newest_schema_is_the_one_that_mlflow_makes(migrated_store: Path) -> None:
    assert store.newest_schema() == store.schema(migrated_store)
