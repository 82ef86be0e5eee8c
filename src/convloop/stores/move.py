"""Move the local store to the database and bucket of an MLflow server, with everything as it was.

Rows are copied, not logged again: over HTTP every run would get another id, and versions another time. A row or file that
the server has already is left alone, so that moving twice adds nothing.
"""

import hashlib
import logging
import os
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convloop.errors import TrackingError
from convloop.stores.database import existing_database, local_folder, places, relocate, snapshot

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

# Each after those that it refers to.
TABLES = (
    *("experiments", "experiment_tags", "runs", "params", "tags", "metrics", "latest_metrics"),
    *("datasets", "inputs", "input_tags"),
    *("registered_models", "registered_model_tags", "model_versions", "model_version_tags", "registered_model_aliases"),
    *("logged_models", "logged_model_params", "logged_model_tags", "logged_model_metrics"),
)
# MLflow's own bookkeeping, which every server has for itself.
_OWN = ("alembic_version", "workspaces", "jobs", "job_locks", "scheduler_leases")
_ROOT = "mlflow-artifacts:"  # how runs name the place behind a server's proxy
_CHUNK_COUNT = 500


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
                _renumber(copy, target)
            sources = {inside: local_folder(place) for inside, place in places(copy).items()}
            relocate(copy, _ROOT)
            file_count, sent_count = _send_files(sources, artifacts, Path(scratch) / "check")
            with engine.begin() as target:
                before = _target_counts(target)
                kept = _send_rows(copy, target, shown)
                added = _target_counts(target) - before
        except SQLAlchemyError as error:
            raise TrackingError(
                f"{shown} refused: {str(error).splitlines()[0][:300]}. Nothing of the store was moved."
            ) from error
        finally:
            engine.dispose()
        rows, left = _row_counts(copy)
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
        for name, number, created_ms, run in _select(target, "name, version, creation_time, run_id from model_versions")
    }
    for name, number, created_ms, run in ours:
        if theirs.get((name, number), (created_ms, run)) != (created_ms, run):
            raise TrackingError(
                f"{shown} has another {name} version {number}, of run {theirs[name, number][1]}. Nothing was moved. "
                "Move to an empty database, or register under another name from now on: register.model_name"
            )


def _renumber(copy: Path, target: "Connection") -> None:
    """Give experiments and data sets in the copy the numbers that they have on the server, or free ones."""
    theirs = {name: int(number) for number, name in _select(target, "experiment_id, name from experiments")}
    with closing(sqlite3.connect(copy)) as connection, connection:
        ours = {name: int(number) for number, name in connection.execute("select experiment_id, name from experiments")}
        free = max([*theirs.values(), *ours.values()]) + 1
        numbers = {}
        for name, number in ours.items():
            numbers[number] = theirs.get(name, number)
            if name not in theirs and number in theirs.values():
                numbers[number], free = free, free + 1
        for table in TABLES:
            columns = [column[1] for column in connection.execute(f"pragma table_info({table})")]
            if "experiment_id" in columns:
                for number, new in numbers.items():  # below zero first, where none can be in the way
                    connection.execute(
                        f"update {table} set experiment_id = ? where experiment_id = ?", (-1 - new, number)
                    )
                connection.execute(f"update {table} set experiment_id = -1 - experiment_id where experiment_id < 0")
        known = {
            (int(number), name, digest): key
            for key, number, name, digest in _select(target, "dataset_uuid, experiment_id, name, digest from datasets")
        }
        for key, *where in connection.execute(
            "select dataset_uuid, experiment_id, name, digest from datasets"
        ).fetchall():
            if known.get(tuple(where), key) != key:
                connection.execute(
                    "update datasets set dataset_uuid = ? where dataset_uuid = ?", (known[tuple(where)], key)
                )
                connection.execute("update inputs set source_id = ? where source_id = ?", (known[tuple(where)], key))


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
    digests = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        with file.open("rb") as opened:
            digests[file.relative_to(folder).as_posix()] = hashlib.file_digest(opened, "sha256").hexdigest()
    return digests


def _send_rows(copy: Path, target: "Connection", shown: str) -> dict[str, int]:
    """Insert the rows that the server lacks, read all of them back, and count those that it has otherwise."""
    from sqlalchemy import MetaData, Table, create_engine
    from sqlalchemy.dialects import postgresql, sqlite

    insert = postgresql.insert if target.dialect.name == "postgresql" else sqlite.insert
    engine = create_engine(f"sqlite:///{copy}")
    kept: Counter[str] = Counter()
    try:
        with engine.connect() as source:
            for name in TABLES:
                ours = Table(name, MetaData(), autoload_with=source, resolve_fks=False)
                theirs = Table(name, MetaData(), autoload_with=target, resolve_fks=False)
                for rows in _chunks(source, ours):
                    target.execute(insert(theirs).on_conflict_do_nothing(), rows)
                    missing, other = _compare(target, theirs, rows)
                    if missing:
                        raise TrackingError(
                            f"{missing} rows of {name} did not arrive at {shown}. Nothing of the database was moved."
                        )
                    kept[name] += other
                _advance_sequence(target, theirs)
    finally:
        engine.dispose()
    return {name: count for name, count in kept.items() if count}


def _chunks(source: "Connection", table: "Table") -> Iterator[list[dict[str, Any]]]:
    from sqlalchemy import select

    for rows in source.execution_options(yield_per=_CHUNK_COUNT).execute(select(table)).mappings().partitions():
        yield [dict(row) for row in rows]


def _compare(target: "Connection", table: "Table", rows: list[dict[str, Any]]) -> tuple[int, int]:
    from sqlalchemy import select, tuple_

    key = list(table.primary_key.columns)

    def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(row[column.name] for column in key)

    found = {
        key_of(dict(row)): dict(row)
        for row in target.execute(select(table).where(tuple_(*key).in_([key_of(row) for row in rows]))).mappings()
    }
    missing = sum(key_of(row) not in found for row in rows)
    return missing, sum(found.get(key_of(row), row) != row for row in rows)


def _advance_sequence(target: "Connection", table: "Table") -> None:
    """Let PostgreSQL number the next row after ours, which came with their numbers."""
    from sqlalchemy import text

    key = list(table.primary_key.columns)
    if target.dialect.name != "postgresql" or len(key) != 1 or key[0].type.python_type is not int:
        return
    column = key[0].name
    sequence = target.execute(
        text("select pg_get_serial_sequence(:table, :key)"), {"table": table.name, "key": column}
    ).scalar()
    if sequence:
        target.execute(
            text(f"select setval(:sequence, greatest((select max({column}) from {table.name}), 1))"),
            {"sequence": sequence},
        )


def _select(target: "Connection", words: str) -> list[Any]:
    from sqlalchemy import text

    return list(target.execute(text(f"select {words}")))


def _target_counts(target: "Connection") -> Counter[str]:
    return Counter({name: int(_select(target, f"count(*) from {name}")[0][0]) for name in TABLES})


def _row_counts(copy: Path) -> tuple[dict[str, int], dict[str, int]]:
    with closing(sqlite3.connect(copy)) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        counted = {name: int(connection.execute(f"select count(*) from {name}").fetchone()[0]) for name in names}
    left = {name: count for name, count in counted.items() if count and name not in (*TABLES, *_OWN)}
    return {name: counted[name] for name in TABLES}, left
