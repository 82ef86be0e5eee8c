"""The store: where it is, made once however many come first, and clear words when it does not answer."""

import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from convloop import store
from convloop.errors import OutputError, TrackingError
from tests.conftest import environment

_OPEN = """
import sys
from pathlib import Path
from convloop import store
client = store.connect(Path(sys.argv[1]), 5)
print(client.create_experiment(sys.argv[2]))
"""


def closed_port() -> int:
    """Find a port of loopback on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.system
def test_six_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _OPEN, str(tmp_path), f"experiment {index}"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(6)
    ]
    answers = [process.communicate() for process in started]
    assert [(process.returncode, stderr) for process, (_, stderr) in zip(started, answers, strict=True)] == [
        (0, "")
    ] * 6
    assert sorted(int(stdout) for stdout, _ in answers) == [1, 2, 3, 4, 5, 6]
    with closing(sqlite3.connect(tmp_path / "mlruns/mlflow.db")) as connection:
        assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("select count(*) from alembic_version").fetchone() == (1,)
        names = [name for (name,) in connection.execute("select name from experiments order by name")]
    assert names == ["Default", *(f"experiment {index}" for index in range(6))]
    assert not (tmp_path / "mlruns/mlflow.db.new").exists()


def test_a_store_half_made_by_a_kill_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "mlruns").mkdir()
    (tmp_path / "mlruns/mlflow.db.new").write_bytes(b"half a database")
    client = store.connect(tmp_path, 5)
    assert client.get_experiment("0").name == "Default"


def test_store_is_sqlite_inside_the_project(tmp_path: Path) -> None:
    assert store.tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlruns/mlflow.db"


def test_store_of_a_dvc_experiment_is_that_of_the_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "workspace"))
    assert store.tracking_uri(tmp_path / "copy") == f"sqlite:///{tmp_path}/workspace/mlruns/mlflow.db"


def test_variable_names_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert store.tracking_uri(tmp_path) == "http://mlflow:5000"


def test_store_named_by_the_variable_is_made_where_it_says(
    tmp_path: Path, migrated_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.db"
    other.write_bytes(migrated_store.read_bytes())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    store.connect(tmp_path, 5).create_experiment("there")
    with closing(sqlite3.connect(other)) as connection:
        assert connection.execute("select count(*) from experiments where name = 'there'").fetchone() == (1,)
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("http://ann:secret@mlflow:5000/base", "http://mlflow:5000/base"),
        ("https://ann:s%40cret@mlflow/", "https://mlflow/"),
        ("http://mlflow:5000", "http://mlflow:5000"),
    ],
)
def test_password_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, shown: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert store.shown_uri(tmp_path) == shown


def test_password_is_not_in_the_message_of_a_dead_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:secret@127.0.0.1:{port}")
    with pytest.raises(TrackingError) as raised:
        store.connect(tmp_path, 5)
    assert str(raised.value) == (
        f"No answer from MLflow at http://127.0.0.1:{port} in 5 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
    )


def test_what_is_no_uri_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "mlflow.db")
    with pytest.raises(TrackingError) as raised:
        store.connect(tmp_path, 5)
    assert str(raised.value) == (
        "MLFLOW_TRACKING_URI is mlflow.db, which is not a URI. "
        "Use sqlite:////absolute/path.db or http://host:port, or unset it."
    )


def test_uri_of_an_unknown_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "carrier-pigeon://coop")
    with pytest.raises(TrackingError, match=r"^The MLflow store carrier-pigeon://coop failed: .* See what is wrong: "):
        store.connect(tmp_path, 5)


def test_dead_server_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = closed_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(TrackingError) as raised:
        store.connect(tmp_path, 3)
    assert str(raised.value) == (
        f"No answer from MLflow at http://127.0.0.1:{port} in 3 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
    )


def test_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """A process of its own, since MLflow reads its patience from variables that stay set."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
        program = "import sys; from pathlib import Path; from convloop import store; store.connect(Path('.'), 1)"
        answer = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=environment(tmp_path, MLFLOW_TRACKING_URI=uri),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert answer.stderr.splitlines()[-1] == (
        f"convloop.errors.TrackingError: No answer from MLflow at {uri} in 1 s. "
        "Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
    )


def test_file_in_the_way_of_the_local_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlruns").write_text("in the way")
    with pytest.raises(OutputError) as raised:
        store.connect(tmp_path, 5)
    assert str(raised.value) == (
        f"{tmp_path}/mlruns/mlflow.db.lock cannot be written: File exists. Make that folder writable."
    )


def test_store_that_is_no_database_is_a_message(tmp_path: Path) -> None:
    database = tmp_path / "mlruns/mlflow.db"
    database.parent.mkdir()
    database.write_text("long enough to be taken for a database" * 100)
    with pytest.raises(OutputError) as raised:
        store.connect(tmp_path, 5)
    assert str(raised.value) == (
        f"The MLflow store {database} cannot be opened to write: file is not a database. "
        f"Make room (df -h {database.parent}) or make it writable (ls -ld {database} {database.parent}), "
        "or move it away to start a new one."
    )


def test_folder_in_the_place_of_the_database_is_a_message(tmp_path: Path) -> None:
    database = tmp_path / "mlruns/mlflow.db"
    database.mkdir(parents=True)
    with pytest.raises(OutputError) as raised:
        store.connect(tmp_path, 5)
    assert str(raised.value) == (
        f"The MLflow store {database} cannot be opened to write: unable to open database file. "
        f"Make room (df -h {database.parent}) or make it writable (ls -ld {database} {database.parent}), "
        "or move it away to start a new one."
    )


def test_folder_in_the_place_of_the_lock_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "mlruns/mlflow.db.lock").mkdir(parents=True)
    with pytest.raises(OutputError) as raised:
        store.connect(tmp_path, 5)
    assert str(raised.value) == (
        f"{tmp_path}/mlruns/mlflow.db.lock cannot be written: Is a directory. Make that folder writable."
    )
