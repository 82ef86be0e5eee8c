"""Move the local store to the database and bucket of an MLflow server, with everything as it was.

Rows are copied, not logged again: over HTTP every run would get another id, and versions another time. A row or file that
the server has already is left alone, so that moving twice adds nothing.
"""

import logging
import os
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convloop.core.digest import file_sha256
from convloop.errors import TrackingError
from convloop.stores.database import existing_database, local_folder, places, relocate, snapshot
from convloop.stores.rows import renumber, row_counts, select_rows, send_rows, target_counts

if TYPE_CHECKING:
    from sqlalchemy import Connection

_ROOT = "mlflow-artifacts:"  # how runs name the place behind a server's proxy


@dataclass(frozen=True)
class Moved:
    """What the server has now of this store, compared row by row and file by file."""

    row_counts: dict[str, int]  # by table
    added_count: int
    kept: dict[str, int]  # rows by table that the server has otherwise, and keeps
    left: dict[str, int]  # rows by table that are not moved
    file_count: int
    sent_count: int


def move(project: Path, uri: str, artifacts: str) -> Moved:
    """Copy the local store into the database and the artifacts' destination of a server, which may be running.

    Args:
        uri: the server's --backend-store-uri.
        artifacts: the server's --artifacts-destination.

    Raises:
        TrackingError: the server cannot be reached, has another schema or other versions under the same name; a run is
            still open; something did not arrive as it was. Rows are added in one transaction, after all files.
    """
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    database = existing_database(project)
    _check_uri(uri, database)
    shown = _shown(uri)
    with tempfile.TemporaryDirectory(dir=database.parent, prefix="moving.", suffix=".tmp") as scratch:
        copy = Path(scratch) / "copy.db"
        snapshot(database, copy)
        _check_closed(copy)
        _prepare(uri, shown)
        engine = create_engine(uri)
        try:
            with engine.connect() as target:
                _check_target(target, copy, shown)
                renumber(copy, target)
            sources = {inside: local_folder(place) for inside, place in places(copy).items()}
            relocate(copy, _ROOT)
            file_count, sent_count = _send_files(sources, artifacts, Path(scratch) / "check")
            with engine.begin() as target:
                before = target_counts(target)
                kept = send_rows(copy, target, shown)
                added = target_counts(target) - before
        except SQLAlchemyError as error:
            raise TrackingError(
                f"{shown} refused: {str(error).splitlines()[0][:300]}. Nothing of the store was moved."
            ) from error
        finally:
            engine.dispose()
        rows, left = row_counts(copy)
    return Moved(rows, added.total(), kept, left, file_count, sent_count)


def _check_uri(uri: str, database: Path) -> None:
    if uri.startswith(("http://", "https://")):
        raise TrackingError(
            f"{_shown(uri)} is the server's address; over it every run would get another id. "
            "Name its database and bucket: convloop store move postgresql+psycopg://mlflow@host/mlflow --artifacts s3://bucket/prefix"
        )
    if not uri.startswith(("postgresql+psycopg://", "sqlite:////")):
        raise TrackingError(
            f"{_shown(uri)} is no database that the store can move to. Allowed: postgresql+psycopg://user@host/database "
            "(password in PGPASSWORD), sqlite:////absolute/path.db"
        )
    if uri == f"sqlite:///{database}":
        raise TrackingError(f"The store is at {uri} already.")


def _shown(uri: str) -> str:
    before, at, after = uri.rpartition("@")
    return f"{before.partition('://')[0]}://{after}" if at else uri


def _check_closed(copy: Path) -> None:
    with closing(sqlite3.connect(copy)) as connection:
        found = connection.execute("select name, run_uuid from runs where status = 'RUNNING'").fetchall()
    if found:
        raise TrackingError(
            f"{len(found)} runs are open, such as {found[0][0]} ({found[0][1][:8]}): their end would not be moved. "
            "Let them end; what no process writes any more is closed by: convloop doctor"
        )


def _prepare(uri: str, shown: str) -> None:
    """Make the tables where there are none; MLflow refuses a database of another schema."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy import create_engine
    from sqlalchemy.exc import SQLAlchemyError

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    for name in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what it logs with a traceback, it raises as well
    try:
        engine = create_engine(uri)
        with engine.connect():  # MLflow itself would try again for 100 s
            pass
        engine.dispose()
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, ModuleNotFoundError) as error:
        raise TrackingError(
            f"{shown} cannot be used: {str(error).strip().splitlines()[0][:300]}. "
            "Is it up, is PGPASSWORD set, is psycopg there (pip install 'convloop[server]')? Nothing was moved."
        ) from error


def _check_target(target: "Connection", copy: Path, shown: str) -> None:
    """Refuse a registry that has another version under a number that is ours."""
    with closing(sqlite3.connect(copy)) as connection:
        ours = connection.execute("select name, version, creation_time, run_id from model_versions").fetchall()
    theirs = {
        (name, number): (created_ms, run)
        for name, number, created_ms, run in select_rows(
            target, "name, version, creation_time, run_id from model_versions"
        )
    }
    for name, number, created_ms, run in ours:
        if theirs.get((name, number), (created_ms, run)) != (created_ms, run):
            raise TrackingError(
                f"{shown} has another {name} version {number}, of run {theirs[name, number][1]}. Nothing was moved. "
                "Move to an empty database, or register under another name from now on: register.model_name"
            )


def _send_files(sources: dict[str, Path | None], artifacts: str, scratch: Path) -> tuple[int, int]:
    """Upload the files of every run and fetch them back to compare; what arrived before is only compared."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    file_count = sent_count = 0
    for inside, folder in sources.items():
        if folder is None or not folder.is_dir():
            continue
        expected = _digests(folder)
        if not expected:
            continue
        try:
            repository = get_artifact_repository(artifacts)
            if _fetched(repository, inside, scratch / "before") != expected:
                repository.log_artifacts(str(folder), inside)
                sent_count += len(expected)
                arrived = _fetched(repository, inside, scratch / "after")
                wrong = [name for name, digest in expected.items() if arrived.get(name) != digest]
                if wrong:
                    raise TrackingError(
                        f"{artifacts}/{inside}/{wrong[0]} did not arrive as it was. Nothing of the database was moved."
                    )
        except TrackingError:
            raise
        except Exception as error:  # the errors of every kind of bucket
            raise TrackingError(
                f"{artifacts} cannot be written: {str(error).strip().splitlines()[0][:300]}. Check the bucket and its keys "
                "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, MLFLOW_S3_ENDPOINT_URL). Nothing of the database was moved."
            ) from error
        file_count += len(expected)
    return file_count, sent_count


def _fetched(repository: Any, inside: str, folder: Path) -> dict[str, str]:
    """Download what lies at a place and hash it; nothing there gives nothing."""
    if not repository.list_artifacts(inside):
        return {}
    with tempfile.TemporaryDirectory(dir=folder.parent.parent) as fetched:
        return _digests(Path(repository.download_artifacts(inside, fetched)))


def _digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): file_sha256(file)
        for file in sorted(path for path in folder.rglob("*") if path.is_file())
    }
