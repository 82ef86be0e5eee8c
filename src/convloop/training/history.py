"""What happened in each epoch: first into a file, then to the run and the terminal."""

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import psutil
import torch
from lightning.pytorch.callbacks import Checkpoint

from convloop.core.history import Row, points_of, write_history
from convloop.core.ranks import is_lead
from convloop.training.classifier import Classifier

if TYPE_CHECKING:
    from convloop.runs import Run


class History(Checkpoint):
    """Write a row for each epoch; epochs count from 1.

    A row is told only when the epoch's weights are on disk, and lies beside them: a kill at any moment leaves no epoch
    that was told and has to be trained again. Being a Checkpoint puts this last in Lightning's order, after the weights.
    """

    def __init__(self, file: Path, run: "Run", image_count: int, epochs: int) -> None:
        self.rows: list[Row] = []
        self._file, self._run, self._image_count, self._epochs = file, run, image_count, epochs
        self._process_began_s = psutil.Process().create_time()
        self._setup_s = self._started_s = self._started_cpu_s = 0.0
        self._spent_s = self._spent_cpu_s = 0.0  # on this epoch, before it was cut off

    def state_dict(self) -> dict[str, Any]:
        spent_s, spent_cpu_s = time.monotonic() - self._started_s, time.process_time() - self._started_cpu_s
        return {"rows": self.rows, "spent_s": spent_s, "spent_cpu_s": spent_cpu_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]
        self._spent_s, self._spent_cpu_s = state_dict["spent_s"], state_dict["spent_cpu_s"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._setup_s = time.time() - self._process_began_s
        self._started_s = time.monotonic() - self._spent_s
        self._started_cpu_s = time.process_time() - self._spent_cpu_s
        if is_lead() and self.rows:
            write_history(self._file, self.rows)
            for row in self.rows:
                self._run.log_points(points_of(row))  # a kill during an outage may have left them unsent

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._started_s, self._started_cpu_s = time.monotonic(), time.process_time()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        epoch_s = time.monotonic() - self._started_s
        self.rows.append(
            {
                "epoch": trainer.current_epoch + 1,
                **pl_module.means,
                "train/images_per_s": self._image_count / epoch_s,
                "train/spent_s": (self.rows[-1]["train/spent_s"] if self.rows else 0.0) + epoch_s,
                "system/setup_s": self._setup_s,
                **self._system(epoch_s),
                "time_ms": time.time_ns() // 1_000_000,
            }
        )

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not is_lead():
            return
        row = self.rows[-1]
        write_history(self._file, self.rows)
        self._run.log_points(points_of(row))
        if not sys.stdout.isatty():
            epoch_s = self._image_count / row["train/images_per_s"]
            print(
                f"epoch {row['epoch']}/{self._epochs}  train loss {row['train/loss']:.4f} accuracy {row['train/accuracy']:.3f}  "
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
