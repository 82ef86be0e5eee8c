"""What a recipe adds to the loop: average weights and an early end."""

from typing import TYPE_CHECKING

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, WeightAveraging
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

if TYPE_CHECKING:
    from convloop.config import TrainParams


class StopEarly(EarlyStopping):
    """End after `epoch_count` epochs without a better validation accuracy, also where a kill came right before the end."""

    def __init__(self, epoch_count: int) -> None:
        super().__init__("val/accuracy", mode="max", patience=epoch_count)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def average_weights(share: float) -> WeightAveraging:
    """Keep an exponential moving average of weights and statistics, which is validated and packaged.

    Args:
        share: of the average that a step leaves. Early on it is lower, (1 + n) / (10 + n) after n steps, so that the
            first weights are soon forgotten.
    """

    def follow(averages: list[Tensor], weights: list[Tensor], step_count: Tensor | int) -> None:
        done = int(step_count)
        step = get_ema_multi_avg_fn(min(share, (1 + done) / (10 + done)))  # type: ignore[no-untyped-call]
        step(averages, weights, step_count)

    return WeightAveraging(multi_avg_fn=follow)


def recipe_callbacks(settings: "TrainParams") -> list[pl.Callback]:
    """Give what the params ask for, nothing by default."""
    averaging: list[pl.Callback] = [average_weights(settings.average_share)] if settings.average_share else []
    count = settings.stop_after_epoch_count
    return averaging + ([StopEarly(count)] if count else [])
