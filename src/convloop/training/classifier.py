"""What Lightning trains: a net, cross-entropy on its logits, Adam."""

from typing import cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convloop.core.package import normalise
from convloop.errors import TrainingError
from convloop.training.sharding import shard

_CHECK_EVERY_STEP_COUNT = 50


class Sums:
    """Loss, right answers and images, added up on the device so that no step waits for a number."""

    def __init__(self, device: torch.device) -> None:
        self.sums_3 = torch.zeros(3, dtype=torch.float64, device=device)

    def add(self, loss: Tensor, logits_NK: Tensor, labels_N: Tensor) -> None:
        count = len(labels_N)
        right = (logits_NK.argmax(1) == labels_N).sum()
        self.sums_3 += torch.stack([loss.detach() * count, right, torch.full_like(right, count)]).double()

    def means(self) -> tuple[float, float]:
        """Give mean loss and accuracy over all ranks."""
        sums_3 = self.sums_3.clone()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(sums_3)
        loss, right, count = sums_3.tolist()
        return loss / count, right / count


def inverse_frequency(labels_N: Tensor, class_count: int) -> Tensor:
    """Weigh each class by the inverse of its share, so that all classes weigh as much and the mean over images is 1."""
    counts_K = torch.bincount(labels_N, minlength=class_count)
    return len(labels_N) / (class_count * counts_K.float())


def training_loss(logits_NK: Tensor, labels_N: Tensor, weights_K: Tensor | None) -> Tensor:
    """Give the mean cross-entropy, each image weighted by its class.

    The weighted sum is divided by the number of images, not by the sum of this batch's weights as PyTorch would: ranks
    hold equally many images but unequal weights, so only this mean is the same however a batch is cut.
    """
    if weights_K is None:
        return cross_entropy(logits_NK, labels_N)
    return cross_entropy(logits_NK, labels_N, weight=weights_K, reduction="sum") / len(labels_N)


class Classifier(pl.LightningModule):
    """Train `net` on uint8 images_NHWC; after each epoch `means` holds what it reached.

    Args:
        lr: learning rate of Adam (Kingma and Ba, 2015).
        weights_K: weight of each class in the training loss, 1 on the mean over the training images; None for equal.
    """

    def __init__(
        self,
        net: nn.Module,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        lr: float,
        weights_K: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lr = lr
        self.register_buffer("mean_C", torch.tensor(mean_C))
        self.register_buffer("std_C", torch.tensor(std_C))
        self.register_buffer("weights_K", weights_K, persistent=False)
        self.means: dict[str, float] = {}

    def forward(self, images_NHWC: Tensor) -> Tensor:
        """Give logits_NK for uint8 images_NHWC."""
        logits_NK: Tensor = self.net(normalise(images_NHWC, cast(Tensor, self.mean_C), cast(Tensor, self.std_C)))
        return logits_NK

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.net, self.trainer.strategy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.lr, fused=True)

    def on_train_epoch_start(self) -> None:
        self._train_sums = Sums(self.device)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        images_NHWC, labels_N = batch
        logits_NK = self(images_NHWC)
        loss = training_loss(logits_NK.float(), labels_N, cast(Tensor | None, self.weights_K))
        self._train_sums.add(loss, logits_NK, labels_N)
        if batch_index % _CHECK_EVERY_STEP_COUNT == 0:
            self._check_finite()
        return loss

    def on_validation_epoch_start(self) -> None:
        self._val_sums = Sums(self.device)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        images_NHWC, labels_N = batch
        logits_NK = self(images_NHWC)
        self._val_sums.add(cross_entropy(logits_NK.float(), labels_N), logits_NK, labels_N)

    def on_validation_epoch_end(self) -> None:
        self._check_finite()
        train_loss, train_accuracy = self._train_sums.means()
        val_loss, val_accuracy = self._val_sums.means()
        self.means = {
            "train/loss": train_loss,
            "train/accuracy": train_accuracy,
            "val/loss": val_loss,
            "val/accuracy": val_accuracy,
        }
        self.log("val/accuracy", val_accuracy)  # for the checkpoint of the best epoch

    def _check_finite(self) -> None:
        if not torch.isfinite(self._train_sums.sums_3[0]):
            kept = (
                f"the state after epoch {self.current_epoch} is kept"
                if self.current_epoch
                else "nothing was learned yet"
            )
            raise TrainingError(
                f"The loss was nan or infinite by step {self.global_step} (epoch {self.current_epoch + 1}, lr {self.lr:g}). "
                f"Lower train.lr; {kept}."
            )
