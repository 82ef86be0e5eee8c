"""All that knows devices, precision and strategies."""

import logging
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor

from convloop.core.ranks import is_lead
from convloop.errors import DeviceError, ParamsError, TrainingError
from convloop.training.callbacks import recipe_callbacks
from convloop.training.checkpoints import DurableFiles, checkpoint_callbacks
from convloop.training.classifier import Classifier
from convloop.training.guards import LossWatch, is_out_of_memory, out_of_memory
from convloop.training.history import History
from convloop.training.loaders import Batches
from convloop.training.memory import keep_freed_memory
from convloop.training.signals import LOST_RANK, StopSignals

if TYPE_CHECKING:
    from convloop.config import TrainParams
    from convloop.runs import Run

# How several devices share the work, as Lightning names it. A new one is a line here and in config.STRATEGY_NAMES.
STRATEGIES = {"auto": "auto", "ddp": "ddp"}
_PRECISIONS: dict[int | str, Any] = {32: "32-true", "bf16": "bf16-mixed"}


class Stopped(KeyboardInterrupt):
    """Training was asked to stop; its state is kept. `exit_code` tells Ctrl-C from SIGTERM."""

    def __init__(self, exit_code: int) -> None:
        self.exit_code = exit_code


@dataclass(frozen=True)
class Fitted:
    """What training leaves: the weights to package and the epoch that made them."""

    weights: dict[str, Tensor]
    epoch: int
    world_size: int


def fit(
    classifier: Classifier,
    batches: Batches,
    settings: "TrainParams",
    *,
    image_count: int,
    state: Path,
    resume_from: Path | None,
    run: "Run",
) -> Fitted:
    """Train to the end, going on from `resume_from` where it is given.

    Raises:
        Stopped: Ctrl-C or SIGTERM; `state` holds all that was trained.
        DeviceError: this machine lacks the accelerator or devices.
        ParamsError: the devices found cannot share a batch evenly.
        TrainingError: the loss was not a number or diverged, memory ran out, or another rank was lost.
    """
    keep_freed_memory()
    stop = StopSignals()
    history = History(state / "history.csv", run, image_count, settings.epochs)
    bar = [RichProgressBar(leave=True)] if sys.stdout.isatty() else []
    _quieten()
    try:
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            strategy=STRATEGIES[settings.strategy],
            precision=_PRECISIONS[settings.precision],
            max_epochs=settings.epochs,
            callbacks=[
                stop,
                LossWatch(),
                *bar,
                *recipe_callbacks(settings),
                *checkpoint_callbacks(state, stop, settings.seed, settings.save_every_s),
                history,
            ],
            plugins=[DurableFiles()],
            logger=False,
            enable_progress_bar=bool(bar),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=state,
        )
    except (MisconfigurationException, ValueError) as error:
        raise _absent(settings, error) from error
    if settings.batch_size % trainer.world_size:
        below = settings.batch_size // trainer.world_size * trainer.world_size
        raise ParamsError(
            f"params.yaml: train.batch_size is {settings.batch_size}, which {trainer.world_size} devices cannot share evenly. "
            f"Use {below or trainer.world_size} or {below + trainer.world_size}."
        )
    is_short_of_memory = False
    try:
        trainer.fit(classifier, batches, ckpt_path=resume_from, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as ended:
        if stop.exit_code is None:
            # Lightning turns a Ctrl-C that comes before its first step into exit code 1.
            raise (Stopped(130) if trainer.interrupted and ended.args == (1,) else ended) from None
    except (RuntimeError, MemoryError) as error:
        is_short_of_memory = is_out_of_memory(error)
        if stop.lost_rank is None and not is_short_of_memory:
            raise
        if not is_short_of_memory:
            raise TrainingError(f"{stop.lost_rank}, {LOST_RANK}") from error
    finally:
        stop.give_back()
    if is_short_of_memory:  # said here, where no traceback holds the memory of the step any more

        def trains_with(size: int) -> None:
            short_trainer(settings, [], step_count=2).fit(classifier, batches.resized(size))

        raise out_of_memory(settings.batch_size, trainer.world_size, trains_with)
    if stop.exit_code is not None:
        raise Stopped(stop.exit_code) if is_lead() else SystemExit(stop.exit_code)
    chosen = torch.load(state / f"{settings.keep}.ckpt", map_location="cpu", weights_only=True)
    weights = {
        name.removeprefix("net."): tensor for name, tensor in chosen["state_dict"].items() if name.startswith("net.")
    }
    return Fitted(weights, chosen["epoch"] + 1, trainer.world_size)


def short_trainer(settings: "TrainParams", callbacks: list[pl.Callback], step_count: int) -> pl.Trainer:
    """Make a trainer that takes a few steps on one device and keeps nothing, to measure with.

    Raises:
        DeviceError: this machine lacks the accelerator.
    """
    _quieten()
    try:
        return pl.Trainer(
            accelerator=settings.accelerator,
            devices=1,
            precision=_PRECISIONS[settings.precision],
            max_epochs=-1,
            max_steps=step_count,
            limit_val_batches=0,
            callbacks=callbacks,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
        )
    except (MisconfigurationException, ValueError) as error:
        raise _absent(settings, error) from error


def _absent(settings: "TrainParams", error: Exception) -> DeviceError:
    return DeviceError(
        f"params.yaml: train.accelerator is {settings.accelerator} and train.devices is {settings.devices}, but {error} "
        "See what is there: convloop doctor"
    )


def _quieten() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
