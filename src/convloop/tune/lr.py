"""tune lr: the learning rate at which the loss falls fastest, by a range test."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from convloop.core.lr_range import read_range, round_lr
from convloop.errors import TrainingError
from convloop.reporting.plots import plot_lr_range
from convloop.training.probes import ramp_losses
from convloop.tune.answer import FOLDER, give_answer
from convloop.tune.task import open_task

if TYPE_CHECKING:
    from convloop.config import Params

_LOWEST_LR, _HIGHEST_LR = 1e-6, 10.0
_STEP_COUNT = 280  # 40 for each power of ten


def tune_lr(project: Path, params: "Params", *, apply: bool) -> None:
    """Train some steps at ever higher rates on one device, and answer with the rate at which the loss falls fastest.

    Raises:
        TrainingError: the loss fell at no rate.
    """
    task = open_task(project)
    lrs_S = np.geomspace(_LOWEST_LR, _HIGHEST_LR, _STEP_COUNT)
    losses_S = ramp_losses(task.classifier(params.train), task.batches(params.train), params.train, lrs_S)
    lrs_S = lrs_S[: len(losses_S)]
    try:
        found = read_range(lrs_S, losses_S)
    except ValueError as error:
        raise TrainingError(
            f"No learning rate between {_LOWEST_LR:g} and {_HIGHEST_LR:g} helps: {error}. "
            "Look at the images and labels (reports/prepare/report.html), or raise train.batch_size."
        ) from None
    lr = round_lr(found.steepest_lr)
    plot = project / FOLDER / "lr/range.png"
    plot_lr_range(lrs_S, losses_S, found.smooth_losses_S, lr, plot)
    print(
        f"{len(lrs_S)} steps of {params.train.batch_size} images, rate {lrs_S[0]:g} to {lrs_S[-1]:.2g}: the loss falls "
        f"fastest at {lr:g}, and is least at {found.least_loss_lr:.1e}, of which a tenth is {found.least_loss_lr / 10:.1e}."
    )
    print(f"Look at it: {plot.relative_to(project)}")
    give_answer(project, "lr", {"train.lr": lr}, apply=apply)
