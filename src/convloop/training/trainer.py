"""All that knows devices, precision and strategies."""

import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import Strategy, StrategyRegistry
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException

from convloop.core.ranks import is_lead, outside_launch
from convloop.errors import DeviceError, LostRankError, ParamsError, TrainingError
from convloop.training.callbacks import recipe_callbacks
from convloop.training.checkpoints import DurableFiles, checkpoint_callbacks
from convloop.training.children import Home, quieten
from convloop.training.classifier import Classifier
from convloop.training.devices import check_devices, chosen_precision, lightning_precision, placement, share_threads
from convloop.training.guards import LossWatch, is_out_of_memory, out_of_memory
from convloop.training.history import History
from convloop.training.loaders import Batches
from convloop.training.memory import keep_freed_memory
from convloop.training.sharding import sharded
from convloop.training.signals import LOST_RANK, StopSignals
from convloop.training.zero import PlainDeepSpeed

if TYPE_CHECKING:
    from convloop.config import TrainParams
    from convloop.runs import Run

# How several devices share the work, as Lightning names it or makes it (docs/strategies.md). Any other name goes to
# Lightning as it is. A new one is a line here and in config.STRATEGY_NAMES.
STRATEGIES: dict[str, str | Callable[[], Strategy]] = {
    "auto": "auto",
    "ddp": "ddp",
    "ddp_spawn": "ddp_spawn",
    "fsdp": sharded,
    "deepspeed": PlainDeepSpeed,
}


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
    precision: str


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
    check_devices(settings)
    launch = outside_launch()
    placed = placement(settings, launch)
    stop = StopSignals()
    home = Home() if _makes_children(settings.strategy) else None
    history = History(state / "history.csv", cast("Run", home) if home else run, image_count, settings.epochs)
    callbacks: list[pl.Callback] = [
        stop,
        *([home] if home else []),
        LossWatch(),
        *([RichProgressBar(leave=True)] if sys.stdout.isatty() else []),
        *recipe_callbacks(settings),
        *checkpoint_callbacks(state, stop, settings.seed, settings.save_every_s),
        history,
    ]
    trainer = _trainer(settings, callbacks, placed, state)
    _check_share(settings, trainer.world_size)
    share_threads(trainer.num_devices)
    if launch:  # others may have looked for a checkpoint before the lead knew which one it is
        trainer.strategy.connect(classifier)
        trainer.strategy.setup_environment()
        resume_from = trainer.strategy.broadcast(resume_from)
    is_short_of_memory = False
    try:
        with home.heard(trainer, run, stop) if home else nullcontext():
            trainer.fit(classifier, batches, ckpt_path=resume_from, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as ended:
        if stop.exit_code is None:
            # Lightning turns a Ctrl-C that comes before its first step into exit code 1.
            raise (Stopped(130) if trainer.interrupted and ended.args == (1,) else ended) from None
    except ValueError as error:
        if "more than 1 value per channel" in str(error):
            raise _single_images(settings, image_count, trainer.world_size) from error
        raise
    except (RuntimeError, MemoryError, ProcessException) as error:
        if stop.exit_code is not None:  # the others ended first
            raise Stopped(stop.exit_code) from None
        is_short_of_memory = is_out_of_memory(error)
        if launch and _tells_of_a_lost_rank(error):
            stop.lost_rank = f"One of the {trainer.world_size} processes that {launch.name} started was lost"
        if stop.lost_rank is None and not is_short_of_memory:
            raise
        if not is_short_of_memory:
            raise LostRankError(f"{stop.lost_rank}, {LOST_RANK}") from error
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
    return Fitted(weights, chosen["epoch"] + 1, trainer.world_size, str(chosen_precision(settings)))


def short_trainer(settings: "TrainParams", callbacks: list[pl.Callback], step_count: int) -> pl.Trainer:
    """Make a trainer that takes a few steps on one device and keeps nothing, to measure with.

    Raises:
        DeviceError: this machine lacks the accelerator, or something else that the params want.
    """
    check_devices(settings)
    quieten()
    try:
        return pl.Trainer(
            accelerator=settings.accelerator,
            devices=1,
            precision=lightning_precision(settings),
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


def _trainer(settings: "TrainParams", callbacks: list[pl.Callback], placed: dict[str, Any], state: Path) -> pl.Trainer:
    """Make the trainer of a whole training."""
    quieten()
    strategy = STRATEGIES.get(settings.strategy, settings.strategy)
    try:
        return pl.Trainer(
            accelerator=settings.accelerator,
            strategy=strategy() if callable(strategy) else strategy,
            precision=lightning_precision(settings),
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip,
            sync_batchnorm=settings.sync_batchnorm,
            deterministic=settings.deterministic,
            benchmark=not settings.deterministic,
            max_epochs=settings.epochs,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=any(isinstance(one, RichProgressBar) for one in callbacks),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=state,
            **placed | {"plugins": [*placed["plugins"], DurableFiles()]},
        )
    except (MisconfigurationException, ValueError) as error:
        if settings.strategy not in STRATEGIES and settings.strategy.lower() not in StrategyRegistry:
            raise ParamsError(
                f'params.yaml: train.strategy is "{settings.strategy}". Known strategies: {", ".join(STRATEGIES)}, '
                f"and what Lightning knows. It says: {error}"
            ) from error
        raise _absent(settings, error) from error


def _check_share(settings: "TrainParams", world_size: int) -> None:
    """Refuse a batch that the devices, and the pieces of each step, cannot share evenly."""
    share = world_size * settings.accumulate
    if settings.batch_size % share:
        below = settings.batch_size // share * share
        pieces = f" in {settings.accumulate} pieces" if settings.accumulate > 1 else ""
        raise ParamsError(
            f"params.yaml: train.batch_size is {settings.batch_size}, which {world_size} devices cannot share "
            f"evenly{pieces}. Use {below or share} or {below + share}."
        )


def _single_images(settings: "TrainParams", image_count: int, world_size: int) -> TrainingError:
    """Say that an epoch ends in a step too small to normalise over, and which batch size leaves more."""
    share = world_size * settings.accumulate
    fits = next(size for size in count(settings.batch_size, share) if image_count % size not in range(1, 2 * share))
    return TrainingError(
        f"params.yaml: train.batch_size is {settings.batch_size}, which leaves {image_count % settings.batch_size} of "
        f"{image_count} images to the last step of an epoch. {settings.net.name} normalises over each device's part of a "
        f"batch and needs two images or more on each. Use {fits}."
    )


def _absent(settings: "TrainParams", error: Exception) -> DeviceError:
    return DeviceError(
        f"params.yaml: train.accelerator is {settings.accelerator} and train.devices is {settings.devices}, but {error} "
        "See what is there: convloop doctor"
    )


def _tells_of_a_lost_rank(error: Exception) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _makes_children(strategy: str) -> bool:
    """Tell whether Lightning trains in children made by Python, not by running the command again."""
    known: dict[str, Any] = dict.get(StrategyRegistry, strategy.lower(), {"init_params": {}})
    return bool(known["init_params"].get("start_method", "popen") != "popen")
