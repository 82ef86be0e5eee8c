"""Which weights a training keeps on disk."""

from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint


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
