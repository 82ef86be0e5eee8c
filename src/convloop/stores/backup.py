"""Back the local store up while it is in use.

A backup is one tar: a snapshot of the database, the files of every run that it knows, the retraining ledger, and last a
manifest with the checksum of each.
"""

import json
import shutil
import tarfile
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from convloop import ledger, store
from convloop.core.digest import file_sha256
from convloop.errors import OutputError
from convloop.stores.database import counts, existing_database, local_folder, places, snapshot

DATABASE, LEDGER, MANIFEST, FORMAT = "mlflow.db", "retraining.db", "manifest.json", 1
_TRIES = 5  # times that a file may change while it is read


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    file: Path
    run_count: int
    version_count: int
    file_count: int
    elsewhere: tuple[str, ...]  # runs whose files lie on no disk of this machine, and so are not in it


def back_up(project: Path, place: Path | None = None) -> Backup:
    """Write the local store into one file, while others go on writing to it.

    The database is copied first: whatever it names, MLflow has written before.

    Args:
        place: the file to write, or a folder for a file named by the time; `backups` beside the store if None.

    Raises:
        TrackingError: the store is a server, or there is none yet.
        OutputError: the place cannot be written, or has such a file already.
    """
    database = existing_database(project)
    if place is None or place.is_dir() or not place.suffix:
        folder = place or database.parent / "backups"
        place = folder / f"convloop-store-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}.tar"
    if place.exists():
        raise OutputError(f"{place} exists. Name another file, or a folder: convloop store backup {place.parent}")
    building, spool = place.with_name(f"{place.name}.tmp"), place.with_name(f"{place.name}.spool.tmp")
    try:
        with store.writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            with tarfile.open(building, "w") as archive:
                backup = _pack(project, database, archive, spool, place)
            building.rename(place)
    finally:
        building.unlink(missing_ok=True)
        spool.unlink(missing_ok=True)
    return backup


def _pack(project: Path, database: Path, archive: tarfile.TarFile, spool: Path, file: Path) -> Backup:
    sha256: dict[str, str] = {}
    copy = file.with_name(f"{file.name}.db.tmp")
    try:
        snapshot(database, copy)
        counted, lying = counts(copy), places(copy)
        schema = store.schema(copy)
        sha256[DATABASE] = _add(archive, copy, DATABASE)
        if (project / ledger.FILE).is_file():
            snapshot(project / ledger.FILE, copy)
            sha256[LEDGER] = _add(archive, copy, LEDGER)
    finally:
        copy.unlink(missing_ok=True)
    elsewhere, names = [], []
    for inside, uri in lying.items():
        folder = local_folder(uri)
        if folder is None:
            elsewhere.append(inside.split("/")[-2])
            continue
        for found in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = f"artifacts/{inside}/{found.relative_to(folder).as_posix()}"
            if _spool(found, spool):
                sha256[name] = _add(archive, spool, name)
                names.append(name)
    manifest = {
        "format": FORMAT,
        "convloop": version("convloop"),
        "mlflow": version("mlflow"),
        "schema": schema,
        "folder": str(store.folder(project)),
        "made_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "runs": counted["runs"],
        "versions": counted.get("model_versions", 0),
        "files": len(names),
        "sha256": sha256,
    }
    spool.write_text(json.dumps(manifest, indent=1))
    _add(archive, spool, MANIFEST)
    return Backup(file, counted["runs"], counted.get("model_versions", 0), len(names), tuple(elsewhere))


def _add(archive: tarfile.TarFile, file: Path, name: str) -> str:
    archive.add(file, name)
    return file_sha256(file)


def _spool(file: Path, spool: Path) -> bool:
    """Copy a file that may be written to meanwhile, until it was still from beginning to end; False when it is gone."""
    for _ in range(_TRIES):
        try:
            before = file.stat()
            shutil.copyfile(file, spool)
            after = file.stat()
        except FileNotFoundError:
            return False
        if (before.st_mtime_ns, before.st_size) == (after.st_mtime_ns, after.st_size):
            return True
    raise OutputError(f"{file} keeps changing while it is copied. Wait for its run to end, then: convloop store backup")
