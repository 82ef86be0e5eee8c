"""Short trainings that measure and keep nothing: the loss over learning rates, speed and memory, where time goes."""

import os
import resource
import time
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from numpy.typing import NDArray

from convloop.training.classifier import Classifier
from convloop.training.guards import is_out_of_memory
from convloop.training.loaders import Batches
from convloop.training.trainer import short_trainer

if TYPE_CHECKING:
    from convloop.config import TrainParams

_RUN_AWAY_FACTOR = 4.0
_SMOOTHING = 0.9
_WARM_UP_STEP_COUNT = 3
_TRACED_STEP_COUNT = 10
_TABLE_ROW_COUNT = 30
_SCORED_IMAGE_COUNT = 512


class _Ramp(pl.Callback):
    """Raise the learning rate geometrically from step to step, until the loss runs away."""

    def __init__(self, lrs_S: NDArray[np.float64]) -> None:
        self._lrs_S = lrs_S
        self.losses: list[float] = []
        self._mean = self._least = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # A group with a rate of its own keeps its part of the whole; a schedule notes where it began.
        assert isinstance(pl_module, Classifier)
        self._parts = [group.get("initial_lr", group["lr"]) / pl_module.lr for group in _groups(trainer)]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        lr = float(self._lrs_S[min(len(self.losses), len(self._lrs_S) - 1)])
        for group, part in zip(_groups(trainer), self._parts, strict=True):
            group["lr"] = part * lr

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"])
        if isfinite(loss):
            self.losses.append(loss)
            count = len(self.losses)
            self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
            smooth = self._mean / (1 - _SMOOTHING**count)
            self._least = smooth if count == 1 else min(self._least, smooth)
        if not isfinite(loss) or smooth > _RUN_AWAY_FACTOR * self._least:
            trainer.should_stop = True


def _groups(trainer: pl.Trainer) -> list[dict[str, Any]]:
    return [group for optimizer in trainer.optimizers for group in optimizer.param_groups]


def ramp_losses(
    classifier: Classifier, batches: Batches, settings: "TrainParams", lrs_S: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Train one step at each rate; give the losses, fewer than rates where the loss ran away."""
    ramp = _Ramp(lrs_S)
    short_trainer(settings, [ramp], len(lrs_S)).fit(classifier, batches)
    return np.array(ramp.losses)


@dataclass(frozen=True)
class Speed:
    """What a batch size gives: speed, and the most memory that this process, or its GPU, has used so far."""

    images_per_s: float
    memory_mb: float


class _Stopwatch(pl.Callback):
    """Time whole steps after a warm-up, until enough seconds are measured; waits for the GPU at both ends alone."""

    def __init__(self, least_s: float) -> None:
        self._least_s = least_s
        self._started_s = self.elapsed_s = 0.0
        self.image_count = 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        steps = trainer.global_step
        if steps < _WARM_UP_STEP_COUNT:
            return
        if steps > _WARM_UP_STEP_COUNT:
            self.image_count += len(batch[1])
        if steps == _WARM_UP_STEP_COUNT or time.monotonic() - self._started_s >= self._least_s:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            now_s = time.monotonic()
            self.elapsed_s = now_s - self._started_s
            self._started_s = self._started_s or now_s
            trainer.should_stop = steps > _WARM_UP_STEP_COUNT


def measure_speed(classifier: Classifier, batches: Batches, settings: "TrainParams", least_s: float) -> Speed | None:
    """Train for some seconds; None where memory runs out."""
    stopwatch = _Stopwatch(least_s)
    is_gpu = torch.cuda.is_available() and settings.accelerator != "cpu"
    if is_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        short_trainer(settings, [stopwatch], -1).fit(classifier, batches)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    peak_bytes = (
        torch.cuda.max_memory_allocated() if is_gpu else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return Speed(stopwatch.image_count / stopwatch.elapsed_s, peak_bytes / 1e6)


def trace(classifier: Classifier, batches: Batches, settings: "TrainParams", folder: Path) -> tuple[Path, Path]:
    """Record a few steps of training: a trace for Chrome or Perfetto, and a table of the operators that took longest."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # it tells of its start and end
    activities = [torch.profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available() and settings.accelerator != "cpu":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    schedule = torch.profiler.schedule(wait=_WARM_UP_STEP_COUNT, warmup=2, active=_TRACED_STEP_COUNT, repeat=1)
    with torch.profiler.profile(activities=activities, schedule=schedule) as profiler:
        step_count = _WARM_UP_STEP_COUNT + 2 + _TRACED_STEP_COUNT
        short_trainer(settings, [_EachStep(profiler)], step_count).fit(classifier, batches)
    folder.mkdir(parents=True, exist_ok=True)
    traced, table = folder / "trace.json", folder / "operators.txt"
    profiler.export_chrome_trace(str(traced))
    by = "self_cuda_time_total" if len(activities) > 1 else "self_cpu_time_total"
    table.write_text(profiler.key_averages().table(sort_by=by, row_limit=_TABLE_ROW_COUNT), encoding="utf-8")
    return traced, table


class _EachStep(pl.Callback):
    def __init__(self, profiler: torch.profiler.profile) -> None:
        self._profiler = profiler

    def on_train_batch_end(self, *_: Any) -> None:
        self._profiler.step()


def accuracy(classifier: Classifier, images_NHWC: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> float:
    """Give the share of images that a trained classifier answers rightly, each counted once."""
    classifier.eval()
    right_count = 0
    with torch.inference_mode():
        for start in range(0, len(labels_N), _SCORED_IMAGE_COUNT):
            part = slice(start, start + _SCORED_IMAGE_COUNT)
            answers_N = classifier(torch.from_numpy(images_NHWC[part]).to(classifier.device)).argmax(1).cpu()
            right_count += int((answers_N == torch.from_numpy(labels_N[part])).sum())
    return right_count / len(labels_N)
