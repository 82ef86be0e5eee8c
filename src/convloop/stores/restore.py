"""Bring a backup back, without losing what only the present store has."""

import json
import os
import shutil
import sqlite3
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convloop import ledger, store
from convloop.core.digest import file_sha256
from convloop.errors import DataError, TrackingError
from convloop.stores.backup import DATABASE, FORMAT, LEDGER, MANIFEST, back_up
from convloop.stores.database import counts, local_database, local_folder, overwrite, places, relocate, rows


@dataclass(frozen=True)
class Restored:
    """What a restore brought back, and where the store lies that was there before."""

    run_count: int
    version_count: int
    file_count: int
    aside: Path | None


def restore(project: Path, file: Path, *, force: bool = False) -> Restored:
    """Bring a backup back; a store that is there already is backed up first, and its own files stay.

    Raises:
        DataError: the backup is damaged or none of ours.
        TrackingError: it is of another MLflow schema, or the store has runs, versions or retrainings that it lacks (the
            latter not under `force`), or the store is a server.
        OutputError: the store cannot be written.
    """
    database = local_database(project)
    with store.locked(database.with_name(f"{database.name}.lock")), store.writing(database.parent):
        scratch = database.parent / "restoring.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        try:
            scratch.mkdir()
            manifest = _unpack(file, scratch)
            _check_schema(file, manifest)
            aside = _set_aside(project, database, scratch, file, force=force)
            if manifest["folder"] != str(store.folder(project)):
                relocate(scratch / DATABASE, (store.folder(project) / "artifacts").as_uri())
            for inside, uri in places(scratch / DATABASE).items():
                folder = local_folder(uri)
                if folder is not None and (scratch / "artifacts" / inside).is_dir():
                    _move_files(scratch / "artifacts" / inside, folder)
            overwrite(database, scratch / DATABASE)
            if (scratch / LEDGER).is_file():
                overwrite(project / ledger.FILE, scratch / LEDGER)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Restored(manifest["runs"], manifest["versions"], manifest["files"], aside)


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack a backup and check every file of it against its manifest."""
    try:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        sums = manifest["sha256"]
        if manifest["format"] != FORMAT:
            raise DataError(
                f"{file} has format {manifest['format']}, this convloop reads {FORMAT}. Use the one that wrote it."
            )
    except FileNotFoundError as error:
        if not file.exists():
            raise DataError(f"{file} does not exist. List the backups: ls mlruns/backups") from error
        raise DataError(f"{file} is no whole backup: it has no manifest. Use another one.") from error
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged, or no backup of convloop: {error}. Use another one.") from error
    for name, expected in sums.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != expected:
            raise DataError(f"{file} is damaged: {name} does not have the checksum of its manifest. Use another one.")
    return manifest


def _check_schema(file: Path, manifest: dict[str, Any]) -> None:
    if manifest["schema"] != store.newest_schema():
        raise TrackingError(
            f"{file} has the schema {manifest['schema']}, MLflow {version('mlflow')} works on {store.newest_schema()}. "
            "Install the MLflow that the backup's store was used with, restore, install the newer one, then: convloop store upgrade"
        )


def _set_aside(project: Path, database: Path, scratch: Path, file: Path, *, force: bool) -> Path | None:
    """Back up the store that is there, and refuse to lose what only it has."""
    if not database.exists():
        return None
    try:
        lacking = _lacking(project, database, scratch)
    except (sqlite3.DatabaseError, DataError) as error:
        if not force:
            raise DataError(
                f"The store {database} cannot be read ({error}), so it may have runs that {file} lacks. "
                f"Restore anyway, with the damaged one set aside: convloop store restore {file} --force"
            ) from error
        damaged = database.with_name(f"{database.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}")
        for suffix in ("-wal", "-shm", ""):
            left = database.with_name(f"{database.name}{suffix}")
            if left.exists():
                left.rename(damaged.with_name(f"{damaged.name}{suffix}"))
        return damaged
    if lacking and not force:
        raise TrackingError(
            f"The store {database} has what {file} lacks: {', '.join(lacking)}. "
            f"Keep both: restore in another clone. Or restore here, with this store backed up first: "
            f"convloop store restore {file} --force"
        )
    return back_up(project).file if counts(database)["runs"] else None


def _lacking(project: Path, database: Path, scratch: Path) -> list[str]:
    said = []
    for what, live, backup, table, columns in (
        ("runs", database, scratch / DATABASE, "runs", ("run_uuid",)),
        ("model versions", database, scratch / DATABASE, "model_versions", ("name", "version")),
        ("retrainings", project / ledger.FILE, scratch / LEDGER, "retraining", ("id", "started_utc")),
    ):
        if not live.is_file():
            continue
        kept = set(rows(backup, table, *columns)) if backup.is_file() else set()
        lost = [row for row in rows(live, table, *columns) if row not in kept]
        if lost:
            said.append(
                f"{len(lost)} {what} ({' '.join(str(part)[:8] for part in lost[0])}{', ...' if lost[1:] else ''})"
            )
    return said


def _move_files(source: Path, target: Path) -> None:
    """Put files in their places, each in one step; a file that is there already is replaced."""
    for file in [path for path in source.rglob("*") if path.is_file()]:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        building = place.with_name(f"{place.name}.restoring.tmp")
        shutil.move(file, building)
        os.replace(building, place)  # noqa: PTH105 - one atomic step
