"""Reach the MLflow store: where it is, made safely on first use, with short patience."""

import errno
import fcntl
import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from convloop.errors import OutputError, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "mlruns"
_BUSY_S = 30  # as long as another process may write
_UNREACHED = ("failed with exception", "failed with timeout exception")  # as MLflow says it
# What a disk says, through SQLite or the system, on which nothing can be written now.
_UNWRITABLE = (
    *("disk is full", "disk I/O error", "readonly database"),
    *map(os.strerror, (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)),
)
# A stage waits for one answer, never for a row of retries; no telemetry, no progress bars, no pickles when loading.
_QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
}


def folder(project: Path) -> Path:
    """Give the folder of the local store, the same one for an experiment that DVC runs in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT", project)).resolve() / FOLDER


def tracking_uri(project: Path) -> str:
    """Give the absolute URI of the store: MLFLOW_TRACKING_URI, or SQLite inside the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder(project) / 'mlflow.db'}"


def local_database(project: Path) -> Path | None:
    """Give the file of a store on SQLite, None where the store is a server."""
    uri = tracking_uri(project)
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def lock_folder(project: Path) -> Path:
    """Give the folder for locks: beside the database, so that projects that share one wait for each other."""
    database = local_database(project)
    return database.parent if database else folder(project)


def shown_uri(project: Path) -> str:
    """Give the URI without a password, fit for messages."""
    uri = tracking_uri(project)
    parts = urlsplit(uri)
    return uri.replace(f"{parts.netloc.rpartition('@')[0]}@", "") if "@" in parts.netloc else uri


def connect(project: Path, timeout_s: int) -> "MlflowClient":
    """Open the store and make sure that it answers.

    Raises:
        TrackingError: a server gives no answer within `timeout_s`, or the store is of another MLflow version, which
            MLflow itself would migrate without a lock or a backup.
        OutputError: the local store cannot be written.
    """
    opened = client(project, timeout_s)
    with answering(project, timeout_s):
        opened.search_experiments(max_results=1)
    return opened


def client(project: Path, timeout_s: int) -> "MlflowClient":
    """Give a client without asking a server anything; the local store is created first if need be.

    Raises:
        TrackingError: no URI, or the local store is of another MLflow version.
        OutputError: the local store cannot be written.
    """
    for name, value in {**_QUIET, "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_s)}.items():
        os.environ.setdefault(name, value)
    # It logs a traceback of what it raises as well, and what is raised we say in one line.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    uri = tracking_uri(project)
    database = local_database(project)
    if database is not None:
        _create_sqlite(database)
        _probe_sqlite(database)
        _check_schema(database)
    elif not urlsplit(uri).scheme:
        raise TrackingError(
            f"MLFLOW_TRACKING_URI is {uri}, which is not a URI. Use sqlite:////absolute/path.db or http://host:port, or unset it."
        )
    with answering(project, timeout_s):
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=uri, registry_uri=uri)


@contextmanager
def answering(project: Path, timeout_s: int) -> Iterator[None]:
    """Turn what MLflow raises when its server is away into a TrackingError that says where and what now."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, OSError) as error:
        uri = shown_uri(project)
        if uri.startswith("http"):
            if "failed with error code 401" in str(error):
                raise TrackingError(
                    f"MLflow at {uri} does not let this user in. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD "
                    "to what its administrator gave you, then run the same command again."
                ) from error
            unreachable = isinstance(error, OSError) or any(said in str(error) for said in _UNREACHED)
            said = (
                f"No answer from MLflow at {uri} in {timeout_s} s"
                if unreachable
                else f"MLflow at {uri} refused: {_line(error)}"
            )
            raise TrackingError(
                f"{said}. Start the server or unset MLFLOW_TRACKING_URI, then run the same command again."
            ) from error
        if any(said in str(error) for said in _UNWRITABLE):
            raise OutputError(
                f"The MLflow store {uri} cannot be written: {_line(error)}. Make room or make it writable (df -h, ls -l), "
                "then run the same command again; what the store holds is safe."
            ) from error
        raise TrackingError(
            f"The MLflow store {uri} failed: {_line(error)}. See what is wrong: convloop doctor"
        ) from error


@contextmanager
def locked(lock_file: Path) -> Iterator[None]:
    """Let one process of this machine at a time through, the others waiting."""
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        opened = lock_file.open("a")
    except OSError as error:
        raise OutputError(f"{lock_file} cannot be written: {error.strerror}. Make that folder writable.") from error
    with opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield


@contextmanager
def writing(place: Path) -> Iterator[None]:
    """Turn what the system or SQLite says of a disk that cannot be written into an OutputError."""
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if not any(known in said for known in _UNWRITABLE):
            raise
        raise OutputError(
            f"{place} cannot be written: {said}. Make room or make it writable (df -h {place.parent}; ls -ld {place.parent}), "
            "then run the same command again."
        ) from error


def _create_sqlite(database: Path) -> None:
    """Make a fresh store in one hand: MLflow itself breaks a fresh SQLite file for good when two processes open it."""
    if database.exists():
        return
    with locked(database.with_name(f"{database.name}.lock")):
        if database.exists():
            return
        building = database.with_name(f"{database.name}.new")
        building.unlink(missing_ok=True)
        _probe_sqlite(building)
        from mlflow import MlflowClient

        MlflowClient(tracking_uri=f"sqlite:///{building}").search_experiments(max_results=1)
        with closing(sqlite3.connect(building)) as connection:
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma wal_checkpoint(truncate)")
        building.rename(database)


def _probe_sqlite(database: Path) -> None:
    """Make sure that the file is a database that can be written: MLflow itself would try again for 100 s."""
    try:
        with closing(sqlite3.connect(database, timeout=_BUSY_S)) as connection:
            connection.execute("begin immediate")
    except sqlite3.Error as error:
        raise OutputError(
            f"The MLflow store {database} cannot be opened to write: {error}. "
            f"Make room (df -h {database.parent}) or make it writable (ls -ld {database} {database.parent}), or move it away "
            "to start a new one."
        ) from error


@cache
def newest_schema() -> str:
    """Give the schema that the installed MLflow works on: of its migrations the one that none follows."""
    found = find_spec("mlflow")
    assert found is not None
    assert found.origin is not None
    texts = [file.read_text() for file in Path(found.origin).parent.glob("store/db_migrations/versions/*.py")]
    names = {line[1] for text in texts if (line := re.search(r'^revision\b.*"(\w+)"', text, re.MULTILINE))}
    followed = {line[1] for text in texts if (line := re.search(r'^down_revision\b.*"(\w+)"', text, re.MULTILINE))}
    (newest,) = names - followed
    return newest


def schema(database: Path) -> str:
    """Give the schema that a database has, or an empty text where it is none of MLflow."""
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True, timeout=_BUSY_S)) as connection:
        if connection.execute("select 1 from sqlite_master where name = 'alembic_version'").fetchone() is None:
            return ""
        (found,) = connection.execute("select version_num from alembic_version").fetchone() or ("",)
    return str(found)


def _check_schema(database: Path) -> None:
    found = schema(database)
    if found not in ("", newest_schema()):
        raise TrackingError(
            f"The MLflow store {database} has the schema {found}, MLflow {version('mlflow')} works on {newest_schema()}. "
            "Bring it up, with a backup made first: convloop store upgrade"
        )


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300]
