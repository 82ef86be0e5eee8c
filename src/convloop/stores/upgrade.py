"""Take the local store to the schema of the installed MLflow."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

from convloop import store
from convloop.errors import TrackingError
from convloop.processes import environment
from convloop.stores.backup import back_up
from convloop.stores.database import counts, existing_database, open_database, overwrite, snapshot

_TRIES = 5  # times that others may write while it is migrated


def upgrade(project: Path) -> Path | None:
    """Take the store to the schema of the installed MLflow and give the backup made before; None if nothing is to do.

    A copy is migrated, compared, and written back in one transaction: a kill in the middle changes nothing.

    Raises:
        TrackingError: the migration failed, lost something, or others kept writing meanwhile; the store is as it was.
    """
    database = existing_database(project)
    with store.locked(database.with_name(f"{database.name}.lock")), store.writing(database.parent):
        if store.schema(database) == store.newest_schema():
            return None
        backup = back_up(project)
        migrated = database.with_name(f"{database.name}.upgrading.tmp")
        try:
            with closing(open_database(database)) as live:
                for _ in range(_TRIES):
                    before = _data_version(live)
                    snapshot(database, migrated)
                    counted = counts(migrated)
                    _migrate(database, migrated)
                    if counts(migrated) != counted:
                        raise TrackingError(
                            f"The migration of {database} lost rows: {counted} before, {counts(migrated)} after. "
                            "The store is as it was; report this with the versions that convloop doctor prints."
                        )
                    if _data_version(live) == before:
                        overwrite(database, migrated)
                        return backup.file
            raise TrackingError(
                f"Others kept writing to {database} while it was migrated, and the store is as it was. "
                "Stop them (convloop ui, trainings), then: convloop store upgrade"
            )
        finally:
            migrated.unlink(missing_ok=True)


def _migrate(database: Path, copy: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mlflow", "db", "upgrade", f"sqlite:///{copy}"],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or store.schema(copy) != store.newest_schema():
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise TrackingError(
            f"MLflow {version('mlflow')} cannot migrate {database}: {said[:300]}. The store is as it was. "
            "Was it made by a newer MLflow? Then install that one."
        )


def _data_version(connection: sqlite3.Connection) -> int:
    """Give a number that changes whenever another process has written."""
    return int(connection.execute("pragma data_version").fetchone()[0])
