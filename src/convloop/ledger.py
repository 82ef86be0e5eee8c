"""What was retrained when, why, and what came of it: one row for each retraining, kept in SQLite."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

FILE = "work/retraining.db"
_TABLE = """
create table if not exists retraining (
    id integer primary key,
    slot text unique,          -- the cron slot, so that two schedulers cannot run one twice; null when by hand
    reason text not null,
    status text not null,      -- running, finished, failed, stopped, lost
    outcome text not null default '',
    started_utc text not null,
    ended_utc text not null default ''
)
"""


@dataclass(frozen=True)
class Row:
    """One retraining as the ledger has it."""

    id: int
    slot: str | None
    reason: str
    status: str
    outcome: str


class Ledger:
    """The rows; only who holds the retraining lock may write."""

    def __init__(self, project: Path) -> None:
        self._file = project / FILE
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._open() as connection:
            connection.execute(_TABLE)

    def mark_lost(self) -> int:
        """Close rows of jobs that died without a word: under the lock nobody else can be running."""
        with self._open() as connection:
            return connection.execute(
                "update retraining set status = 'lost', ended_utc = ? where status = 'running'", (_now(),)
            ).rowcount

    def begin(self, reason: str, slot: str | None) -> int | None:
        """Open a row; None when that slot has one already and it did not get lost."""
        with self._open() as connection:
            connection.execute("delete from retraining where slot = ? and status = 'lost'", (slot,))
            try:
                cursor = connection.execute(
                    "insert into retraining (slot, reason, status, started_utc) values (?, ?, 'running', ?)",
                    (slot, reason, _now()),
                )
            except sqlite3.IntegrityError:
                return None
            return cursor.lastrowid

    def end(self, row_id: int, status: str, outcome: str) -> None:
        """Close a row with what came of it."""
        with self._open() as connection:
            connection.execute(
                "update retraining set status = ?, outcome = ?, ended_utc = ? where id = ?",
                (status, outcome, _now(), row_id),
            )

    def rows(self) -> list[Row]:
        """List all rows, oldest first."""
        with self._open() as connection:
            found = connection.execute("select id, slot, reason, status, outcome from retraining order by id")
            return [Row(*row) for row in found]

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self._file, timeout=30)) as connection, connection:
            yield connection


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
