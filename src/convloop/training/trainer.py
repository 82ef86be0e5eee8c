"""All that knows devices, precision and strategies."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.strategies import Strategy, StrategyRegistry
from torch import Tensor
from torch.multiprocessing.spawn import ProcessException

from convloop.core.ranks import outside_launch
from convloop.errors import DeviceError, ParamsError, TrainingError
from convloop.training.checkpoints import checkpoint_callbacks
from convloop.training.children import Home, quieten
from convloop.training.classifier import Classifier
from convloop.training.devices import check_devices, chosen_precision, lightning_precision, placement, share_threads
from convloop.training.history import History
from convloop.training.loaders import Batches
from convloop.training.sharding import sharded
from convloop.training.signals import StopSignals

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
    "deepspeed": "deepspeed",
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
        Stopped: Ctrl-C or SIGTERM; the last whole epoch is kept in `state`.
        DeviceError: this machine lacks the accelerator or devices.
        ParamsError: the devices found cannot share a batch evenly.
        TrainingError: the loss was not a number, or another rank was lost.
    """
    check_devices(settings)
    strategy = STRATEGIES.get(settings.strategy, settings.strategy)
    launch = outside_launch()
    placed = placement(settings, launch)
    stop = StopSignals()
    home = Home() if _makes_children(settings.strategy) else None
    history = History(state / "history.csv", cast("Run", home) if home else run, image_count, settings.epochs)
    bar: list[pl.Callback] = [RichProgressBar(leave=True)] if sys.stdout.isatty() else []
    quieten()
    try:
        trainer = pl.Trainer(
            accelerator=settings.accelerator,
            strategy=strategy() if callable(strategy) else strategy,
            precision=lightning_precision(settings),
            accumulate_grad_batches=settings.accumulate,
            gradient_clip_val=settings.clip,
            sync_batchnorm=settings.sync_batchnorm,
            max_epochs=settings.epochs,
            callbacks=[stop, *([home] if home else []), *bar, *checkpoint_callbacks(state), history],
            logger=False,
            enable_progress_bar=bool(bar),
            enable_model_summary=False,
            num_sanity_val_steps=0,
            use_distributed_sampler=False,
            default_root_dir=state,
            **placed,
        )
    except (MisconfigurationException, ValueError) as error:
        if settings.strategy not in STRATEGIES and settings.strategy.lower() not in StrategyRegistry:
            raise ParamsError(
                f'params.yaml: train.strategy is "{settings.strategy}". Known strategies: {", ".join(STRATEGIES)}, '
                f"and what Lightning knows. It says: {error}"
            ) from error
        raise DeviceError(
            f"params.yaml: train.accelerator is {settings.accelerator} and train.devices is {settings.devices}, but {error} "
            "See what is there: convloop doctor"
        ) from error
    share = trainer.world_size * settings.accumulate
    if settings.batch_size % share:
        below = settings.batch_size // share * share
        pieces = f" in {settings.accumulate} pieces" if settings.accumulate > 1 else ""
        raise ParamsError(
            f"params.yaml: train.batch_size is {settings.batch_size}, which {trainer.world_size} devices cannot share "
            f"evenly{pieces}. Use {below or share} or {below + share}."
        )
    share_threads(trainer.num_devices)
    if launch:  # others may have looked for a checkpoint before the lead knew which one it is
        trainer.strategy.connect(classifier)
        trainer.strategy.setup_environment()
        resume_from = trainer.strategy.broadcast(resume_from)
    try:
        with home.heard(trainer, run, stop) if home else nullcontext():
            trainer.fit(classifier, batches, ckpt_path=resume_from, weights_only=True)
    except (SystemExit, KeyboardInterrupt) as ended:
        if stop.exit_code is None:
            # Lightning turns a Ctrl-C that comes before its first step into exit code 1.
            raise (Stopped(130) if trainer.interrupted and ended.args == (1,) else ended) from None
    except (RuntimeError, ProcessException) as error:
        if stop.exit_code is not None:  # the others ended first
            raise Stopped(stop.exit_code) from None
        if launch and _tells_of_a_lost_rank(error):
            stop.lost_rank = f"One of the {trainer.world_size} processes that {launch.name} started was lost"
        if stop.lost_rank is None:
            raise
        raise TrainingError(
            f"{stop.lost_rank}, so the others cannot go on. What it said itself is above; SIGKILL without a word is often "
            "too little memory. The same command goes on from the last whole epoch."
        ) from error
    finally:
        stop.give_back()
    if stop.exit_code is not None:
        raise Stopped(stop.exit_code)
    chosen = _read(state / f"{settings.keep}.ckpt")
    weights = {
        name.removeprefix("net."): tensor for name, tensor in chosen["state_dict"].items() if name.startswith("net.")
    }
    return Fitted(weights, chosen["epoch"] + 1, trainer.world_size, str(chosen_precision(settings)))


def _read(checkpoint: Path) -> dict[str, Any]:
    if checkpoint.is_dir():  # DeepSpeed's, with a file for each device
        from lightning.pytorch.utilities.deepspeed import convert_zero_checkpoint_to_fp32_state_dict

        return dict(convert_zero_checkpoint_to_fp32_state_dict(checkpoint, checkpoint / f"plain-{os.getpid()}.pt"))
    read: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return read


def _tells_of_a_lost_rank(error: Exception) -> bool:
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


def _makes_children(strategy: str) -> bool:
    """Tell whether Lightning trains in children made by Python, not by running the command again."""
    known: dict[str, Any] = dict.get(StrategyRegistry, strategy.lower(), {"init_params": {}})
    return bool(known["init_params"].get("start_method", "popen") != "popen")
