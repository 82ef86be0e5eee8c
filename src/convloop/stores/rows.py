"""Rows of a store, table by table: numbered as the server has them, inserted where it lacks them, and compared."""

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convloop.errors import TrackingError

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
_CHUNK_COUNT = 500


def renumber(copy: Path, target: "Connection") -> None:
    """Give experiments and data sets in the copy the numbers that they have on the server, or free ones."""
    theirs = {name: int(number) for number, name in select_rows(target, "experiment_id, name from experiments")}
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
            for key, number, name, digest in select_rows(
                target, "dataset_uuid, experiment_id, name, digest from datasets"
            )
        }
        for key, *where in connection.execute(
            "select dataset_uuid, experiment_id, name, digest from datasets"
        ).fetchall():
            if known.get(tuple(where), key) != key:
                connection.execute(
                    "update datasets set dataset_uuid = ? where dataset_uuid = ?", (known[tuple(where)], key)
                )
                connection.execute("update inputs set source_id = ? where source_id = ?", (known[tuple(where)], key))


def send_rows(copy: Path, target: "Connection", shown: str) -> dict[str, int]:
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


def target_counts(target: "Connection") -> Counter[str]:
    """Count the rows of each table on the server."""
    return Counter({name: int(select_rows(target, f"count(*) from {name}")[0][0]) for name in TABLES})


def row_counts(copy: Path) -> tuple[dict[str, int], dict[str, int]]:
    """Count the rows of each table that is moved, and of those that are left behind."""
    with closing(sqlite3.connect(copy)) as connection:
        names = [name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")]
        counted = {name: int(connection.execute(f"select count(*) from {name}").fetchone()[0]) for name in names}
    left = {name: count for name, count in counted.items() if count and name not in (*TABLES, *_OWN)}
    return {name: counted[name] for name in TABLES}, left


def select_rows(target: "Connection", words: str) -> list[Any]:
    """Ask the server for `select <words>`."""
    from sqlalchemy import text

    return list(target.execute(text(f"select {words}")))


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
