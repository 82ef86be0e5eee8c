"""State to resume from, kept where DVC does not delete it: work/checkpoints/<fingerprint>."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint

FOLDER = Path("work") / "checkpoints"
_KEPT_COUNT = 5


def state_folder(project: Path, **facts: Any) -> Path:
    """Name the folder of one training by all that decides its outcome: params, data, code."""
    fingerprint = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return project / FOLDER / fingerprint


def open_state(state: Path) -> Path | None:
    """Make room for this training and give the checkpoint to go on from, if one was left unfinished."""
    if (state / "finished").exists():
        shutil.rmtree(state)
    state.mkdir(parents=True, exist_ok=True)
    by_age = sorted(state.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for old in [folder for folder in by_age if folder != state][_KEPT_COUNT - 1 :]:
        shutil.rmtree(old, ignore_errors=True)
    return unfinished(state)


def unfinished(state: Path) -> Path | None:
    """Give the checkpoint to go on from, without touching anything."""
    last = state / "last.ckpt"
    return last if last.is_file() else None


def close_state(state: Path) -> None:
    """Mark the training as finished: its checkpoints stay, and the same training asked for again starts afresh."""
    (state / "finished").touch()


def checkpoint_callbacks(state: Path) -> list[ModelCheckpoint]:
    """Keep two files: the first epoch of the best validation accuracy, and the last one, which alone is resumed from."""
    return [
        ModelCheckpoint(
            state,
            "best",
            monitor="val/accuracy",
            mode="max",
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        ModelCheckpoint(state, "last", monitor=None, save_on_train_epoch_end=True, enable_version_counter=False),
    ]
