"""Which states of a training are on disk, and when they are written: the newest two, and the best epoch."""

import random
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm

from convloop.core.folders import fresh_file
from convloop.core.ranks import is_lead
from convloop.core.state import LAST, make_room
from convloop.training.classifier import Classifier, Sums
from convloop.training.signals import StopSignals

_TALK_EVERY_S = 0.5
_LONG_VALIDATION_S = 5.0
_SUMS = "train_sums_R3"


class DurableFiles(TorchCheckpointIO):
    """Write a checkpoint to the disk before it takes its name, and never hold a second copy of it in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with fresh_file(Path(path)) as file:
            try:
                torch.save(checkpoint, file)
            except RuntimeError as error:  # PyTorch's word for any trouble with the file
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None


def checkpoint_callbacks(folder: Path, stop: StopSignals, seed: int, every_s: float) -> list[Checkpoint]:
    """Keep the first epoch of the best validation accuracy, and the newest states, which alone are resumed from."""
    best = ModelCheckpoint(
        folder, "best", monitor="val/accuracy", mode="max", save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [best, States(folder, stop, seed, every_s)]


class States(Checkpoint):
    """Write the state of a training every `every_s` seconds, when it is asked to stop, and after each epoch.

    A training that goes on from any of them ends in the same weights on a CPU: the order of images follows from seed and
    epoch, every other random number from seed, epoch, batch and rank, so no generator has a state to keep.

    The lead decides for all ranks, and tells them in every batch that it has named before, about twice a second: a
    message in each batch would have all devices wait for each other there.
    """

    def __init__(self, folder: Path, stop: StopSignals, seed: int, every_s: float) -> None:
        self._folder, self._stop, self._seed, self._every_s = folder, stop, seed, every_s
        self._sums_R3: torch.Tensor | None = None  # of a state in mid-epoch
        self._is_epoch_trained = False  # while a state is written between the last batch and validation
        self._is_stopping = self._is_kept = False
        self._batches_to_talk = self._batches_between = 1
        self._talked_s = self._due_s = self._validation_began_s = 0.0
        self._validation_s = _LONG_VALIDATION_S  # unknown before the first

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._sums_R3 = checkpoint.get(_SUMS)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if self._sums_R3 is not None:
            checkpoint[_SUMS] = self._sums_R3
        if self._is_epoch_trained:
            # Lightning goes back to a validation that it finds begun; else it would take the epoch for a whole one.
            loops = checkpoint["loops"]["fit_loop"]
            for counts in ("total", "current"):
                batches = loops["epoch_loop.batch_progress"][counts]
                batches["completed"] = batches["processed"]
                begun = int(counts == "total")
                validated = loops["epoch_loop.val_loop.batch_progress"][counts]
                validated.update(ready=begun, started=begun, processed=0, completed=0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        if self._sums_R3 is not None:
            sums = Sums.resumed(self._sums_R3, trainer.global_rank, trainer.world_size, pl_module.device)
            pl_module._train_sums = sums
            self._sums_R3 = None
        self._talked_s = time.monotonic()
        self._due_s = self._talked_s + self._every_s

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._is_stopping:
            raise KeyboardInterrupt

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        draw_from(self._seed, trainer.current_epoch, batch_idx, trainer.global_rank)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, Classifier)
        is_last = batch_idx + 1 == trainer.num_training_batches
        if (batch_idx + 1) % trainer.accumulate_grad_batches and not is_last:
            return  # gradients wait for their other half
        self._is_kept = False
        is_due = self._hear(trainer)
        if is_due or self._is_stopping or (is_last and self._validation_s >= _LONG_VALIDATION_S):
            self._write_in_epoch(trainer, pl_module, is_last)
        if self._is_stopping:
            raise KeyboardInterrupt

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_began_s = time.monotonic()

    def on_validation_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._hear(trainer)
        if self._is_stopping and self._is_kept:
            raise KeyboardInterrupt  # else when the epoch is whole, which is soon

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_s = trainer.strategy.broadcast(time.monotonic() - self._validation_began_s)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write(trainer)

    def _hear(self, trainer: pl.Trainer) -> bool:
        """Learn from the lead whether to stop, and give whether a state is due."""
        self._batches_to_talk -= 1
        if self._batches_to_talk:
            return False
        now_s = time.monotonic()
        if trainer.world_size > 1:
            at_pace = int(self._batches_between * _TALK_EVERY_S / max(now_s - self._talked_s, 1e-6))
            self._batches_between = min(max(1, at_pace), 2 * self._batches_between)
        self._talked_s = now_s
        word = (self._stop.exit_code, now_s >= self._due_s, self._batches_between)
        exit_code, is_due, self._batches_to_talk = trainer.strategy.broadcast(word)
        if exit_code is not None:
            self._stop.exit_code, self._is_stopping = exit_code, True
        return bool(is_due)

    def _write_in_epoch(self, trainer: pl.Trainer, classifier: Classifier, is_epoch_trained: bool) -> None:
        self._sums_R3 = classifier._train_sums.of_all_ranks()
        # A loss that is no number, or a step that broke the weights, leaves nothing to go on from.
        if self._sums_R3.isfinite().all() and _are_finite(classifier):
            self._is_epoch_trained = is_epoch_trained
            self._write(trainer)
        self._sums_R3, self._is_epoch_trained = None, False

    def _write(self, trainer: pl.Trainer) -> None:
        if is_lead():
            make_room(self._folder)
        trainer.save_checkpoint(self._folder / LAST, weights_only=False)
        self._is_kept = True
        self._due_s = time.monotonic() + self._every_s


def _are_finite(classifier: Classifier) -> bool:
    norm = get_total_norm([weights.detach() for weights in classifier.parameters()])
    return bool((norm.full_tensor() if isinstance(norm, DTensor) else norm).isfinite())


def draw_from(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Start all global generators afresh for one step, in 7 us; `torch.manual_seed` alone takes 130 (AMD EPYC)."""
    number = _first_number(seed, epoch, rank) + batch
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed(number)


@lru_cache(maxsize=1)
def _first_number(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1, np.uint64)[0]) >> 1
