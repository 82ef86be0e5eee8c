"""The SQLite file of the local store: what is in it, where its runs keep their files, and how it is copied.

A live database is only ever written through SQLite's own backup, one transaction, so whoever has it open sees the old or
the new one whole.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from convloop import store
from convloop.errors import DataError, TrackingError

_BUSY_S = 30


def local_database(project: Path) -> Path:
    """Give the file where the local store is or will be.

    Raises:
        TrackingError: the store is a server.
    """
    database = store.local_database(project)
    if database is None:
        raise TrackingError(
            f"The MLflow store is {store.shown_uri(project)}; convloop store keeps stores on SQLite. "
            "A server is kept with the tools of its database and bucket: docs/servers.md"
        )
    return database


def existing_database(project: Path) -> Path:
    """Give the file of the local store.

    Raises:
        TrackingError: the store is a server, or there is none yet.
    """
    database = local_database(project)
    if not database.is_file():
        raise TrackingError(f"There is no store {database} yet. Its first run makes it: make repro")
    return database


def local_folder(uri: str) -> Path | None:
    """Give the folder of this machine that a URI names, or None."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme and uri.startswith("/") else None


def snapshot(database: Path, copy: Path) -> None:
    """Copy a database as it is at one moment, without keeping anybody from writing to it."""
    copy.unlink(missing_ok=True)
    try:
        with closing(open_database(database)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("pragma journal_mode=delete")  # one file, without a log beside it
    except sqlite3.OperationalError:
        raise  # of the disk: said by `store.writing`
    except sqlite3.DatabaseError as error:
        raise DataError(
            f"The MLflow store {database} cannot be read: {error}. "
            "Bring back a backup: convloop store restore FILE --force"
        ) from error


def counts(database: Path) -> dict[str, int]:
    """Count what must never get lost."""
    tables = (
        "experiments",
        "runs",
        "metrics",
        "params",
        "tags",
        "inputs",
        "model_versions",
        "registered_model_aliases",
    )
    with closing(sqlite3.connect(database)) as connection:
        known = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
        return {
            name: int(connection.execute(f"select count(*) from {name}").fetchone()[0])
            for name in tables
            if name in known
        }


def places(database: Path) -> dict[str, str]:
    """Say where the files of every run and logged model lie: the place that MLflow's server would give it, to its URI."""
    found = {
        f"{experiment}/{run}/artifacts": uri
        for run, experiment, uri in rows(database, "runs", "run_uuid", "experiment_id", "artifact_uri")
    }
    for model, experiment, uri in rows(database, "logged_models", "model_id", "experiment_id", "artifact_location"):
        found[f"{experiment}/models/{model}/artifacts"] = uri
    return found


def relocate(database: Path, root: str) -> None:
    """Rewrite in a copy of a store where files lie: below `root`, as MLflow's server would place them."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for inside, old in places(database).items():
            new, owner = f"{root}/{inside}", inside.split("/")[-2]
            for table, column, key in (
                ("model_versions", "source", "run_id"),
                ("model_versions", "storage_location", "run_id"),
                ("runs", "artifact_uri", "run_uuid"),
                ("logged_models", "artifact_location", "model_id"),
            ):
                if rows(database, table, key):
                    connection.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "
                        f"where {key} = ? and ({column} = ? or substr({column}, 1, ?) = ?)",
                        (new, len(old) + 1, owner, old, len(old) + 1, f"{old}/"),
                    )
        connection.execute("update experiments set artifact_location = ? || '/' || experiment_id", (root,))


def overwrite(live: Path, new: Path) -> None:
    """Give a database the content of another one in one transaction, or make it where there is none."""
    live.parent.mkdir(parents=True, exist_ok=True)
    if not live.exists():
        with closing(sqlite3.connect(new)) as connection:
            connection.execute("pragma journal_mode=wal")
        new.rename(live)
        return
    with closing(sqlite3.connect(new)) as source, closing(open_database(live)) as target:
        source.backup(target)


def rows(database: Path, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Read some columns of a table; an absent table has no rows."""
    with closing(open_database(database)) as connection:
        if connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone() is None:
            return []
        return connection.execute(f"select {', '.join(columns)} from {table}").fetchall()


def open_database(database: Path) -> sqlite3.Connection:
    """Open a database that is there, waiting for whoever writes to it."""
    return sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=_BUSY_S)
