"""Stop a training that cannot end well, early and with what to do."""

import sys
from math import isfinite
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import torch

from convloop.core.ranks import is_lead
from convloop.errors import TrainingError
from convloop.training.classifier import Classifier

if TYPE_CHECKING:
    from collections.abc import Callable

# A look at the loss waits for the device, so it comes seldom; the loss of the steps between two looks is one number.
_LOOK_EVERY_STEP_COUNT = 50
_DIVERGED_FACTOR = 4.0
_DIVERGED_STEP_COUNT = 50
_LEAST_START_LOSS = 1.0  # a net that begins with almost no loss may lose more than a few times that in its first steps


class LossWatch(pl.Callback):
    """Look at the training loss now and then: not a number, or far above its start for good, ends the training.

    Looking at sums that are added up on the device keeps all other steps free of waiting. The loss alone does not tell a
    net that steps far too large have ended: with no unit left that answers to its input it gives every image the same
    answer, its loss falls back to that of guessing, and no gradient ever moves it again. That is said and no error, since
    it is all that there is to learn from labels that follow from nothing.

    Raises:
        TrainingError: the loss is nan or infinite; or for fifty steps and more every look found a mean loss since the
            last one above four times that of the first step, from which a rate that is merely high recovers sooner.
    """

    def __init__(self) -> None:
        self.start_loss: float | None = None
        self._seen = (0.0, 0.0)  # loss and images of this epoch at the last look
        self._above_since_step: int | None = None
        self._has_warned = False

    def state_dict(self) -> dict[str, Any]:
        return {"start_loss": self.start_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.start_loss = state_dict["start_loss"]

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._seen = (0.0, 0.0)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx % _LOOK_EVERY_STEP_COUNT == 0:
            self._look(trainer, pl_module)
        looks, left = divmod(batch_idx, _LOOK_EVERY_STEP_COUNT)
        if trainer.current_epoch == 0 and left == 0 and looks.bit_count() == 1:  # after 50, 100, 200, 400, ... steps
            self._ask(trainer, pl_module, batch[0])

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if batch_idx == 0:
            self._ask(trainer, pl_module, batch[0])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The last step may have broken the weights after its loss was taken; they must not be kept as the state.
        assert isinstance(pl_module, Classifier)
        if pl_module.means and not isfinite(pl_module.means["val/loss"]):
            raise _not_a_number(trainer, pl_module, pl_module.means["val/loss"], "validation loss")

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, Classifier)
        loss, _, count = pl_module._train_sums.sums_3.tolist()
        if not isfinite(loss):
            raise _not_a_number(trainer, pl_module, loss, "loss")
        seen_loss, seen_count = self._seen
        if count == seen_count:
            return
        mean_loss = (loss - seen_loss) / (count - seen_count)
        self._seen = (loss, count)
        if self.start_loss is None:
            self.start_loss = max(mean_loss, _LEAST_START_LOSS)
        if mean_loss <= _DIVERGED_FACTOR * self.start_loss:
            self._above_since_step = None
        elif self._above_since_step is None:
            self._above_since_step = trainer.global_step
        elif trainer.global_step - self._above_since_step >= _DIVERGED_STEP_COUNT:
            raise TrainingError(
                f"The loss diverges: {mean_loss:.3g} on the mean by step {trainer.global_step} "
                f"(epoch {trainer.current_epoch + 1}, lr {pl_module.lr:g}), after {self.start_loss:.3g} at the start. "
                f"Lower train.lr, or have one found: convloop tune lr; {_kept(trainer)}."
            )

    def _ask(self, trainer: pl.Trainer, pl_module: pl.LightningModule, images_NHWC: torch.Tensor) -> None:
        """Say so, once, when all images get the very same answer."""
        assert isinstance(pl_module, Classifier)
        was_training = pl_module.training
        pl_module.eval()
        with torch.no_grad(), trainer.precision_plugin.forward_context():
            logits_NK = pl_module(images_NHWC)
        pl_module.train(was_training)
        if len(logits_NK) > 1 and bool((logits_NK == logits_NK[0]).all()) and is_lead() and not self._has_warned:
            self._has_warned = True
            print(
                f"Warning: the net gives every image the same answer by step {trainer.global_step} (epoch "
                f"{trainer.current_epoch + 1}, lr {pl_module.lr:g}). Either too large a rate has ended all that it had learned "
                "(lower train.lr, or have one found: convloop tune lr), or the labels do not follow from the images.",
                file=sys.stderr,
                flush=True,
            )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a device, PyTorch's allocator of the CPU, or Python itself ran out of memory."""
    said = ("DefaultCPUAllocator: can't allocate", "std::bad_alloc", "unable to mmap")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(text in str(error) for text in said)


def out_of_memory(batch_size: int, world_size: int, trains_with: "Callable[[int], None]") -> TrainingError:
    """Say which batch size would fit: half as many images, or half of that, found by training a few steps.

    The trial takes a quarter more than the size that it vouches for: a whole training cuts its memory up as it goes on,
    validates and saves.

    Args:
        trains_with: trains a few steps with as many images a step on this device.
    """
    size = batch_size // world_size // 2
    while size:
        try:
            trains_with(size + size // 4)
            return TrainingError(
                f"Out of memory with train.batch_size {batch_size}: {size * world_size} fits, tried just now. "
                f"Type it in, or for this run: --set train.batch_size={size * world_size}"
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        size //= 2
    return TrainingError(
        f"Out of memory with train.batch_size {batch_size}, and with every smaller one. Make room on the device "
        "(convloop doctor), choose a smaller train.net, or smaller generate.image_px."
    )


def _not_a_number(trainer: pl.Trainer, classifier: Classifier, loss: float, what: str) -> TrainingError:
    return TrainingError(
        f"The {what} was {'nan' if loss != loss else 'infinite'} by step {trainer.global_step} "
        f"(epoch {trainer.current_epoch + 1}, lr {classifier.lr:g}). Lower train.lr; {_kept(trainer)}."
    )


def _kept(trainer: pl.Trainer) -> str:
    epoch = trainer.current_epoch
    return f"the state after epoch {epoch} is kept to resume from" if epoch else "nothing was learned yet"
