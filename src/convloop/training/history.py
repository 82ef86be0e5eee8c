"""What happened in each epoch: first into a file, then to the run and the terminal."""

import csv
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl

from convloop.core.folders import write_text
from convloop.core.ranks import is_lead
from convloop.training.classifier import Classifier

if TYPE_CHECKING:
    from convloop.tracking import Run

COLUMNS = ("epoch", "train/loss", "train/accuracy", "val/loss", "val/accuracy", "train/images_per_s", "time_ms")
Row = dict[str, float]


def read_history(file: Path) -> list[Row]:
    """Read the rows of a history file; an absent one has none."""
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as opened:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(opened)]


def metrics_of(row: Row) -> dict[str, float]:
    """Pick what MLflow shows of a row."""
    return {name: value for name, value in row.items() if name not in ("epoch", "time_ms")}


class History(pl.Callback):
    """Write a row for each epoch; epochs count from 1."""

    def __init__(self, file: Path, run: "Run", image_count: int, epochs: int) -> None:
        self.rows: list[Row] = []
        self._file, self._run, self._image_count, self._epochs = file, run, image_count, epochs
        self._started_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A kill between this file and the checkpoint leaves a row of an epoch that will be trained again.
        self.rows = [row for row in read_history(self._file) if row["epoch"] <= trainer.current_epoch]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_s = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not is_lead():
            return
        assert isinstance(pl_module, Classifier)
        epoch_s = time.monotonic() - self._started_s
        epoch, time_ms = trainer.current_epoch + 1, time.time_ns() // 1_000_000
        row: Row = {
            "epoch": epoch,
            **pl_module.means,
            "train/images_per_s": self._image_count / epoch_s,
            "time_ms": time_ms,
        }
        self.rows.append(row)
        lines = [",".join(COLUMNS), *(",".join(f"{row[name]:.10g}" for name in COLUMNS) for row in self.rows)]
        write_text(self._file, "\n".join([*lines, ""]))
        self._run.log_metrics(metrics_of(row), step=epoch, time_ms=time_ms)
        if not sys.stdout.isatty():
            print(  # noqa: T201
                f"epoch {epoch}/{self._epochs}  train loss {row['train/loss']:.4f} accuracy {row['train/accuracy']:.3f}  "
                f"val loss {row['val/loss']:.4f} accuracy {row['val/accuracy']:.3f}  {epoch_s:.1f} s",
                flush=True,
            )
