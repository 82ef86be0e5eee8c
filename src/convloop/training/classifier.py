"""What Lightning trains: a net, cross-entropy on its logits, and the recipe in `train` of the params."""

from collections.abc import Callable
from math import ceil, inf
from typing import TYPE_CHECKING, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from convloop.core.augment import Mix, augmented, generator_of
from convloop.core.curves import CURVES
from convloop.core.package import logits_of, normalise
from convloop.training.loaders import Batch, Batches, TrainBatch
from convloop.training.optimizers import OPTIMIZERS
from convloop.training.recipe import Recipe
from convloop.training.sharding import shard

if TYPE_CHECKING:
    from lightning.pytorch.utilities.types import OptimizerLRScheduler


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
        loss, right, count = self.of_all_ranks().sum(0).tolist()
        return loss / count, right / count

    def of_all_ranks(self) -> Tensor:
        """Give the sums of each rank, on the CPU; all ranks have to ask."""
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return self.sums_3.cpu()[None]
        sums_R3 = [torch.empty_like(self.sums_3) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(sums_R3, self.sums_3)
        return torch.stack(sums_R3).cpu()

    @classmethod
    def resumed(cls, sums_R3: Tensor, rank: int, world_size: int, device: torch.device) -> "Sums":
        """Take up a rank's sums again; where there are now more or fewer ranks, the lead takes them all."""
        sums = cls(device)
        if len(sums_R3) == world_size:
            sums.sums_3 += sums_R3[rank].to(device)
        elif rank == 0:
            sums.sums_3 += sums_R3.sum(0).to(device)
        return sums


def inverse_frequency(labels_N: Tensor, class_count: int) -> Tensor:
    """Weigh each class by the inverse of its share, so that all classes weigh as much and the mean over images is 1."""
    counts_K = torch.bincount(labels_N, minlength=class_count)
    return len(labels_N) / (class_count * counts_K.float())


def training_loss(
    logits_NK: Tensor,
    labels_N: Tensor,
    weights_K: Tensor | None,
    smoothing_share: float = 0.0,
    mix: Mix | None = None,
) -> Tensor:
    """Give the mean cross-entropy, each image weighted by its class; mixed images have a share of two labels.

    The weighted sum is divided by the number of images, not by the sum of this batch's weights as PyTorch would: only
    this mean, weighed by the images that a rank holds, is the same however a batch is cut.
    """
    if mix is not None:
        own = training_loss(logits_NK, labels_N, weights_K, smoothing_share)
        other = training_loss(logits_NK, labels_N[mix.partner_N], weights_K, smoothing_share)
        return mix.share * own + (1 - mix.share) * other
    if weights_K is None:
        return cross_entropy(logits_NK, labels_N, label_smoothing=smoothing_share)
    total = cross_entropy(logits_NK, labels_N, weights_K, reduction="sum", label_smoothing=smoothing_share)
    return total / len(labels_N)


class Classifier(pl.LightningModule):
    """Train `net` on uint8 images_NHWC; after each epoch `means` holds what it reached.

    Args:
        lr: learning rate, at the top of its curve.
        weights_K: weight of each class in the training loss, 1 on the mean over the training images; None for equal.
    """

    def __init__(
        self,
        net: nn.Module,
        mean_C: tuple[float, ...],
        std_C: tuple[float, ...],
        lr: float,
        weights_K: Tensor | None = None,
        recipe: Recipe = Recipe(),  # noqa: B008 - frozen
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.net = net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.lr = lr
        self.register_buffer("mean_C", torch.tensor(mean_C))
        self.register_buffer("std_C", torch.tensor(std_C))
        self.register_buffer("weights_K", weights_K, persistent=False)
        self.means: dict[str, float] = {}
        self._call: Callable[[Tensor], Tensor] = self._call_net

    def forward(self, images_NHWC: Tensor) -> Tensor:
        """Give logits_NK for uint8 images_NHWC, as the package will."""
        images_NCHW = normalise(images_NHWC, cast(Tensor, self.mean_C), cast(Tensor, self.std_C))
        recipe = self.recipe
        return logits_of(self._call, images_NCHW, test_flip=recipe.test_flip, test_shift_px=recipe.test_shift_px)

    def configure_model(self) -> None:
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            shard(self.net, self.trainer.strategy)
        if self.recipe.compile:
            # A call and not the net, whose weights would take other names; Module.compile() passes a Sequential by.
            self._call = torch.compile(self._call_net)

    def _call_net(self, images_NCHW: Tensor) -> Tensor:
        return cast(Tensor, self.net(images_NCHW))

    def configure_optimizers(self) -> "OptimizerLRScheduler":
        chosen = self.recipe
        fused = not self.trainer.gradient_clip_val  # Lightning clips nothing before a fused step in half precision
        optimizer = OPTIMIZERS[chosen.optimizer](self.net, self.lr, chosen.momentum, chosen.weight_decay, fused)
        if chosen.curve == "constant" and not chosen.warmup_share:
            return optimizer
        step_count = self._step_count()
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: CURVES[chosen.curve](min(1.0, step / step_count), chosen.warmup_share)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _step_count(self) -> float:
        """Count the steps of the training. Lightning's count opens the batches before it knows where to go on."""
        trainer = self.trainer
        if trainer.max_epochs == -1:
            return trainer.max_steps if trainer.max_steps != -1 else inf
        assert trainer.max_epochs is not None
        batches: Batches = trainer.datamodule  # type: ignore[attr-defined]
        return ceil(batches.batch_count / trainer.accumulate_grad_batches) * trainer.max_epochs

    def on_train_epoch_start(self) -> None:
        self._train_sums = Sums(self.device)

    def training_step(self, batch: TrainBatch, batch_index: int) -> Tensor:
        images_NHWC, labels_N, weight, mirrored_N = batch
        images_NCHW, mix = augmented(
            images_NHWC,
            mirrored_N,
            self.recipe.augment,
            cast(Tensor, self.mean_C),
            cast(Tensor, self.std_C),
            # Of these four numbers alone, so that a training that goes on from any batch draws the same.
            lambda: generator_of(self.recipe.seed, self.current_epoch, batch_index, self.global_rank),
        )
        logits_NK = self._call(images_NCHW)
        weights_K = cast(Tensor | None, self.weights_K)
        loss = training_loss(logits_NK.float(), labels_N, weights_K, self.recipe.label_smoothing_share, mix)
        if weight:
            larger_N = labels_N if mix is None or mix.share >= 0.5 else labels_N[mix.partner_N]
            self._train_sums.add(loss, logits_NK, larger_N)
        return loss if weight == 1 else loss * weight

    def on_validation_epoch_start(self) -> None:
        self._val_sums = Sums(self.device)

    def validation_step(self, batch: Batch, batch_index: int) -> None:
        images_NHWC, labels_N, weight = batch
        logits_NK = self(images_NHWC)
        if weight:
            self._val_sums.add(cross_entropy(logits_NK.float(), labels_N), logits_NK, labels_N)

    def on_validation_epoch_end(self) -> None:
        train_loss, train_accuracy = self._train_sums.means()
        val_loss, val_accuracy = self._val_sums.means()
        self.means = {
            "train/loss": train_loss,
            "train/accuracy": train_accuracy,
            "val/loss": val_loss,
            "val/accuracy": val_accuracy,
        }
        self.log("val/accuracy", val_accuracy)  # for the checkpoint of the best epoch
