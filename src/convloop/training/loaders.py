"""Ready batches, cut from images where they lie: no worker processes, no collating."""

from collections.abc import Callable, Iterator
from copy import copy

import lightning.pytorch as pl
import torch
from torch import Tensor

from convloop.core.augment import mirrored_in
from convloop.training.pixels import Pixels, on_device

# A rank's share of a batch: images_NHWC, labels_N, and what its mean loss weighs in the mean over ranks. That is 1 where
# all ranks hold as many images, and 0 where this one holds none: then one image of another rank stands in, since every
# rank has to take part in each step.
Batch = tuple[Tensor, Tensor, float]
TrainBatch = tuple[Tensor, Tensor, float, Tensor]  # and mirrored_N, whose turn it is to be mirrored


class ShuffledBatches:
    """Yield this rank's share of each shuffled batch; an epoch's order depends on seed and epoch alone.

    The last batch may be short, and then its shares may differ by one image. What Lightning keeps of a loader is the
    place in the epoch: a training that goes on in the middle of one is given the batches that are left.

    Args:
        sampling: `shuffled` shows each image once an epoch; `balanced` shows as many images of every class, and as
            many in all, so images of rare classes come several times and some of frequent ones sit out.
    """

    def __init__(
        self,
        images_NHWC: Pixels,
        labels_N: Tensor,
        *,
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        rank: int,
        world_size: int,
        sampling: str = "shuffled",
    ) -> None:
        self._images_NHWC, self._labels_N = images_NHWC, labels_N
        self._sampling = sampling
        self._batch_size, self._seed, self._epoch = batch_size, seed, epoch
        self._rank, self._world_size = rank, world_size
        self._place = {"epoch": 0, "batch": 0}

    def __len__(self) -> int:
        return -(-len(self._labels_N) // self._batch_size)

    def __iter__(self) -> Iterator[TrainBatch]:
        epoch = self._epoch()
        first = self._place["batch"] if self._place["epoch"] == epoch else 0
        generator = torch.Generator().manual_seed(self._seed * 100_003 + epoch)
        order_N = torch.randperm(len(self._labels_N), generator=generator)
        if self._sampling == "balanced":
            order_N = balanced_draw(self._labels_N.cpu(), generator)[order_N]
        order_N = order_N.to(_device_of(self._images_NHWC))
        mirrored_N = mirrored_in(epoch, len(self._labels_N), self._seed).to(order_N.device)
        for number, batch_B in enumerate(torch.split(order_N, self._batch_size)[first:], first + 1):
            self._place = {"epoch": epoch, "batch": number}
            own_B, weight = _share(batch_B, self._rank, self._world_size)
            images_BHWC, labels_B = self._images_NHWC.index_select(0, own_B), self._labels_N.index_select(0, own_B)
            yield images_BHWC, labels_B, weight, mirrored_N.index_select(0, own_B)

    def state_dict(self) -> dict[str, int]:
        return self._place

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self._place = state_dict


def _device_of(images_NHWC: Pixels) -> torch.device:
    """Tell where the places of images are to be named: where they lie, so that no batch waits for its own."""
    return images_NHWC.device if isinstance(images_NHWC, Tensor) else torch.device("cpu")


def _share(batch_B: Tensor, rank: int, world_size: int) -> tuple[Tensor, float]:
    """Give a rank's indices of a batch, and the weight of their mean."""
    own_B = batch_B[rank::world_size]
    return (own_B, len(own_B) * world_size / len(batch_B)) if len(own_B) else (batch_B[:1], 0.0)


def balanced_draw(labels_N: Tensor, generator: torch.Generator) -> Tensor:
    """Draw N indices, equally many of each class up to one; no image comes twice more often than another of its class.

    Each class is dealt out in whole rounds of its images, every round shuffled, which varies less than drawing with
    replacement.
    """
    classes_K: Tensor = torch.unique(labels_N)
    quota, left_count = divmod(len(labels_N), len(classes_K))
    one_more = set(torch.randperm(len(classes_K), generator=generator)[:left_count].tolist())
    drawn = []
    for position, label in enumerate(classes_K):
        own_n = torch.nonzero(labels_N == label).ravel()
        count = quota + (position in one_more)
        rounds = [own_n[torch.randperm(len(own_n), generator=generator)] for _ in range(-(-count // len(own_n)))]
        drawn.append(torch.cat(rounds)[:count])
    return torch.cat(drawn)


class OrderedBatches:
    """Yield this rank's share of the images in order, each image once over all ranks.

    All ranks yield as many batches: one more forward pass on one of them would leave it waiting for the others.
    """

    def __init__(self, images_NHWC: Pixels, labels_N: Tensor, *, batch_size: int, rank: int, world_size: int) -> None:
        self._images_NHWC, self._labels_N = images_NHWC, labels_N
        self._batch_size, self._rank, self._world_size = batch_size, rank, world_size

    def __len__(self) -> int:
        return -(-len(self._labels_N) // self._batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for first in range(0, len(self._labels_N), self._batch_size):
            after = min(first + self._batch_size, len(self._labels_N))
            batch_B = torch.arange(first, after, device=_device_of(self._images_NHWC))
            own_B, weight = _share(batch_B, self._rank, self._world_size)
            yield self._images_NHWC.index_select(0, own_B), self._labels_N.index_select(0, own_B), weight


class Batches(pl.LightningDataModule):
    """Hand Lightning the two loaders, once it knows this process's rank."""

    def __init__(
        self,
        train: tuple[Pixels, Tensor],
        val: tuple[Pixels, Tensor],
        *,
        batch_size: int,
        seed: int,
        sampling: str = "shuffled",
        images_in: str = "auto",
    ) -> None:
        super().__init__()
        self._train, self._val = train, val
        self._batch_size, self._seed, self._sampling, self._images_in = batch_size, seed, sampling, images_in

    @property
    def batch_count(self) -> int:
        """Count the batches of an epoch."""
        return -(-len(self._train[1]) // self._batch_size)

    def resized(self, batch_size: int) -> "Batches":
        """Give the same images in batches of another size."""
        other = copy(self)
        other._batch_size = batch_size
        return other

    def train_dataloader(self) -> ShuffledBatches:
        trainer = self.trainer
        assert trainer is not None
        self._train = self._placed(self._train, trainer)
        return ShuffledBatches(
            *self._train,
            batch_size=self._batch_size,
            seed=self._seed,
            epoch=lambda: trainer.current_epoch,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            sampling=self._sampling,
        )

    def val_dataloader(self) -> OrderedBatches:
        trainer = self.trainer
        assert trainer is not None
        self._val = self._placed(self._val, trainer)
        return OrderedBatches(
            *self._val,
            batch_size=max(self._batch_size, 512 * trainer.world_size),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
        )

    def _placed(self, images: tuple[Pixels, Tensor], trainer: pl.Trainer) -> tuple[Pixels, Tensor]:
        images_NHWC, labels_N = images
        images_NHWC = on_device(images_NHWC, trainer.strategy.root_device, self._images_in)
        return images_NHWC, labels_N.to(_device_of(images_NHWC))
