"""Keep the local store: back it up while it is in use, bring it back, take it to a newer MLflow.

A backup is one tar: a snapshot of the database, the files of every run that it knows, the retraining ledger, and last a
manifest with the checksum of each. The live database is only ever written through SQLite's own backup, one transaction,
so whoever has it open sees the old or the new one whole.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from convloop import ledger, store
from convloop.errors import DataError, OutputError, TrackingError
from convloop.processes import environment

DATABASE, LEDGER, MANIFEST = "mlflow.db", "retraining.db", "manifest.json"
_FORMAT = 1
_BUSY_S = 30
_TRIES = 5  # times that a file may change while it is read, or the store while it is migrated


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    file: Path
    run_count: int
    version_count: int
    file_count: int
    elsewhere: tuple[str, ...]  # runs whose files lie on no disk of this machine, and so are not in it


@dataclass(frozen=True)
class Restored:
    """What a restore brought back, and where the store lies that was there before."""

    run_count: int
    version_count: int
    file_count: int
    aside: Path | None


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


def restore(project: Path, file: Path, *, force: bool = False) -> Restored:
    """Bring a backup back; a store that is there already is backed up first, and its own files stay.

    Raises:
        DataError: the backup is damaged or none of ours.
        TrackingError: it is of another MLflow schema, or the store has runs, versions or retrainings that it lacks (the
            latter not under `force`), or the store is a server.
        OutputError: the store cannot be written.
    """
    database = _local(project)
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
            _overwrite(database, scratch / DATABASE)
            if (scratch / LEDGER).is_file():
                _overwrite(project / ledger.FILE, scratch / LEDGER)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Restored(manifest["runs"], manifest["versions"], manifest["files"], aside)


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
            with closing(_open(database)) as live:
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
                        _overwrite(database, migrated)
                        return backup.file
            raise TrackingError(
                f"Others kept writing to {database} while it was migrated, and the store is as it was. "
                "Stop them (convloop ui, trainings), then: convloop store upgrade"
            )
        finally:
            migrated.unlink(missing_ok=True)


def existing_database(project: Path) -> Path:
    """Give the file of the local store.

    Raises:
        TrackingError: the store is a server, or there is none yet.
    """
    database = _local(project)
    if not database.is_file():
        raise TrackingError(f"There is no store {database} yet. Its first run makes it: make repro")
    return database


def snapshot(database: Path, copy: Path) -> None:
    """Copy a database as it is at one moment, without keeping anybody from writing to it."""
    copy.unlink(missing_ok=True)
    try:
        with closing(_open(database)) as source, closing(sqlite3.connect(copy)) as target:
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
        for run, experiment, uri in _rows(database, "runs", "run_uuid", "experiment_id", "artifact_uri")
    }
    for model, experiment, uri in _rows(database, "logged_models", "model_id", "experiment_id", "artifact_location"):
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
                if _rows(database, table, key):
                    connection.execute(
                        f"update {table} set {column} = ? || substr({column}, ?) "
                        f"where {key} = ? and ({column} = ? or substr({column}, 1, ?) = ?)",
                        (new, len(old) + 1, owner, old, len(old) + 1, f"{old}/"),
                    )
        connection.execute("update experiments set artifact_location = ? || '/' || experiment_id", (root,))


def local_folder(uri: str) -> Path | None:
    """Give the folder of this machine that a URI names, or None."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme and uri.startswith("/") else None


def _local(project: Path) -> Path:
    database = store.local_database(project)
    if database is None:
        raise TrackingError(
            f"The MLflow store is {store.shown_uri(project)}; convloop store keeps stores on SQLite. "
            "A server is kept with the tools of its database and bucket: docs/servers.md"
        )
    return database


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
        "format": _FORMAT,
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
    return _sha256(file)


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


def _unpack(file: Path, folder: Path) -> dict[str, Any]:
    """Unpack a backup and check every file of it against its manifest."""
    try:
        with tarfile.open(file) as archive:
            archive.extractall(folder, filter="data")
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        sums = manifest["sha256"]
        if manifest["format"] != _FORMAT:
            raise DataError(
                f"{file} has format {manifest['format']}, this convloop reads {_FORMAT}. Use the one that wrote it."
            )
    except FileNotFoundError as error:
        if not file.exists():
            raise DataError(f"{file} does not exist. List the backups: ls mlruns/backups") from error
        raise DataError(f"{file} is no whole backup: it has no manifest. Use another one.") from error
    except (tarfile.TarError, EOFError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged, or no backup of convloop: {error}. Use another one.") from error
    for name, expected in sums.items():
        if not (folder / name).is_file() or _sha256(folder / name) != expected:
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
        kept = set(_rows(backup, table, *columns)) if backup.is_file() else set()
        lost = [row for row in _rows(live, table, *columns) if row not in kept]
        if lost:
            said.append(
                f"{len(lost)} {what} ({' '.join(str(part)[:8] for part in lost[0])}{', ...' if lost[1:] else ''})"
            )
    return said


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


def _overwrite(live: Path, new: Path) -> None:
    """Give a database the content of another one in one transaction, or make it where there is none."""
    live.parent.mkdir(parents=True, exist_ok=True)
    if not live.exists():
        with closing(sqlite3.connect(new)) as connection:
            connection.execute("pragma journal_mode=wal")
        new.rename(live)
        return
    with closing(sqlite3.connect(new)) as source, closing(_open(live)) as target:
        source.backup(target)


def _move_files(source: Path, target: Path) -> None:
    """Put files in their places, each in one step; a file that is there already is replaced."""
    for file in [path for path in source.rglob("*") if path.is_file()]:
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        building = place.with_name(f"{place.name}.restoring.tmp")
        shutil.move(file, building)
        os.replace(building, place)  # noqa: PTH105 - one atomic step


def _rows(database: Path, table: str, *columns: str) -> list[tuple[Any, ...]]:
    with closing(_open(database)) as connection:
        if connection.execute("select 1 from sqlite_master where name = ?", (table,)).fetchone() is None:
            return []
        return connection.execute(f"select {', '.join(columns)} from {table}").fetchall()


def _open(database: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=_BUSY_S)


def _data_version(connection: sqlite3.Connection) -> int:
    """Give a number that changes whenever another process has written."""
    return int(connection.execute("pragma data_version").fetchone()[0])


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
