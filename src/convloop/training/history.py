"""What happened in each epoch: first into a file, then to the run and the terminal."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lightning.pytorch as pl
import psutil
import torch

from convloop.core.history import Row, points_of, read_history, write_history
from convloop.core.ranks import is_lead
from convloop.training.classifier import Classifier

if TYPE_CHECKING:
    from convloop.runs import Run


class History(pl.Callback):
    """Write a row for each epoch; epochs count from 1."""

    def __init__(self, file: Path, run: "Run", image_count: int, epochs: int) -> None:
        self.rows: list[Row] = []
        self._file, self._run, self._image_count, self._epochs = file, run, image_count, epochs
        self._started_s = self._started_cpu_s = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A kill between this file and the checkpoint leaves a row of an epoch that will be trained again.
        self.rows = [row for row in read_history(self._file) if row["epoch"] <= trainer.current_epoch]
        for row in self.rows:
            self._run.log_points(points_of(row))  # a kill during an outage may have left them unsent

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_s, self._started_cpu_s = time.monotonic(), time.process_time()

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
            **self._system(epoch_s),
            "time_ms": time_ms,
        }
        self.rows.append(row)
        write_history(self._file, self.rows)
        self._run.log_points(points_of(row))
        if not sys.stdout.isatty():
            print(
                f"epoch {epoch}/{self._epochs}  train loss {row['train/loss']:.4f} accuracy {row['train/accuracy']:.3f}  "
                f"val loss {row['val/loss']:.4f} accuracy {row['val/accuracy']:.3f}  {epoch_s:.1f} s",
                flush=True,
            )

    def _system(self, epoch_s: float) -> dict[str, float]:
        """Measure what this process used: a slow epoch with idle cores has another cause than one with busy ones."""
        measured = {
            "system/cpu_share": (time.process_time() - self._started_cpu_s) / epoch_s / (os.cpu_count() or 1),
            "system/memory_mb": psutil.Process().memory_info().rss / 1e6,
        }
        if torch.cuda.is_available():
            measured["system/gpu_memory_mb"] = torch.cuda.max_memory_allocated() / 1e6
        return measured
