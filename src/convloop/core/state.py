"""What a training leaves while it runs: work/checkpoints/<fingerprint>, where DVC deletes nothing.

A folder holds `record.json` (what is trained), `history.csv` (each epoch), the newest state and the one before it
(`last.ckpt`, `before.ckpt`), `best.ckpt`, `run_id` (of MLflow, once it has answered), `status` (how the training ended,
once it has) and `sent` (once MLflow has all of it).
"""

import hashlib
import json
import os
import shutil
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convloop.core.folders import held, write_text
from convloop.errors import BusyError

FOLDER = Path("work") / "checkpoints"
FINISHED = "FINISHED"
LAST, BEFORE = "last.ckpt", "before.ckpt"
_KEPT_COUNT = 5
_PATIENCE_S = 1  # longer than another command looks whether a training runs


def state_folder(project: Path, **facts: Any) -> Path:
    """Name the folder of one training by all that decides its outcome: params, data, code."""
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return project / FOLDER / fingerprint


@contextmanager
def opened(state: Path, *, fresh: bool = False) -> Iterator[Path | None]:
    """Hold a training's folder and give the state to go on from, where one was left unfinished.

    A damaged state is put aside as `*.damaged`, and the one before it is given.

    Args:
        fresh: put aside whatever an unfinished training has left, and begin again.

    Raises:
        BusyError: another process is at the same training.
    """
    state.mkdir(parents=True, exist_ok=True)
    with held(state, _PATIENCE_S) as is_held:
        if not is_held:
            raise BusyError(f"This very training is running already; it holds {state}. Wait for it, or stop it first.")
        if status(state) == FINISHED:
            _set_aside(state)
        elif fresh and (state / "record.json").exists():
            _set_aside(state, with_checkpoints=True)
        (state / "status").unlink(missing_ok=True)
        (state / "sent").unlink(missing_ok=True)
        by_age = sorted(_states(state.parent), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for old in [folder for folder in by_age if folder != state][_KEPT_COUNT - 1 :]:
            _thin_out(old)
        for old in state.glob("*.damaged"):
            old.unlink()
        for name in (LAST, BEFORE):
            if (state / name).exists() and not _is_sound(state / name):
                os.replace(state / name, state / f"{name}.damaged")  # noqa: PTH105
        yield unfinished(state)


def unfinished(state: Path) -> Path | None:
    """Give the newest sound state, without touching anything."""
    return next((state / name for name in (LAST, BEFORE) if _is_sound(state / name)), None)


def make_room(state: Path) -> None:
    """Make the newest state the one before, which a kill leaves as the one to go on from until a newer one is whole."""
    if (state / LAST).exists():
        os.replace(state / LAST, state / BEFORE)  # noqa: PTH105 - one atomic step


def _is_sound(checkpoint: Path) -> bool:
    """Tell whether a checkpoint is whole: PyTorch reads its structure, and each of its parts has its checksum (CRC-32).

    PyTorch itself loads changed numbers without a word, since it skips the checksums that it writes.
    """
    if not checkpoint.exists():
        return False
    import torch

    try:
        torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # whatever a parser says of damaged bytes
        return False


def begin_record(state: Path, facts: dict[str, Any]) -> dict[str, Any]:
    """Note what is trained, under a new id; a training that goes on keeps its first record.

    The id is what MLflow is asked for when its answer to the creation of a run was lost.
    """
    if not (state / "record.json").is_file():
        write_record(state, {"training_id": uuid.uuid4().hex, **facts})
    return read_record(state)


def write_record(state: Path, record: dict[str, Any]) -> None:
    """Replace the record of a training."""
    write_text(state / "record.json", json.dumps(record, indent=1, ensure_ascii=False))


def read_record(state: Path) -> dict[str, Any]:
    """Read what was noted of a training."""
    record: dict[str, Any] = json.loads((state / "record.json").read_text(encoding="utf-8"))
    return record


def status(state: Path) -> str | None:
    """Tell how a training ended, or None where nobody could write it down."""
    file = state / "status"
    return file.read_text().strip() if file.is_file() else None


def left_behind(project: Path) -> list[Path]:
    """Find the trainings that MLflow has not heard all of, and that no process is at."""
    return [
        state
        for state in _states(project / FOLDER)
        if (state / "record.json").is_file() and not (state / "sent").exists() and not is_running(state)
    ]


def is_running(state: Path) -> bool:
    """Tell whether a process of this machine is at this training; one that was killed is not."""
    with held(state) as is_held:
        return not is_held


def noted(project: Path, run_id: str) -> Path | None:
    """Find the training that noted this run of MLflow."""
    for state in _states(project / FOLDER):
        note = state / "run_id"
        if note.is_file() and note.read_text().strip() == run_id:
            return state
    return None


def _states(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _thin_out(state: Path) -> None:
    """Free the space of an old training; what MLflow has not heard yet stays."""
    with held(state) as is_held:
        if is_held and (state / "sent").exists():
            shutil.rmtree(state, ignore_errors=True)
        elif is_held:
            for checkpoint in state.glob("*.ckpt"):
                checkpoint.unlink()


def _set_aside(state: Path, *, with_checkpoints: bool = False) -> None:
    """Make room for the same training to start afresh; what MLflow has not heard of the last one stays beside it."""
    if (state / "record.json").exists() and (with_checkpoints or not (state / "sent").exists()):
        aside = state.with_name(f"{state.name}-{read_record(state)['training_id'][:8]}")
        aside.mkdir(exist_ok=True)
        for name in ("history.csv", "run_id", "status", "sent", "record.json"):
            if (state / name).exists():
                shutil.copyfile(state / name, aside / name)
        for checkpoint in state.glob("*.ckpt") if with_checkpoints else ():
            os.replace(checkpoint, aside / checkpoint.name)  # noqa: PTH105 - over a copy of an attempt that was killed
    last = {"record.json": 1, "status": 2}  # killed before it is through, this begins again
    for entry in sorted(state.iterdir(), key=lambda entry: last.get(entry.name, 0)):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
