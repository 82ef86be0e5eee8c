"""Every image once an epoch, shared evenly, in an order that seed and epoch decide."""

import pytest
import torch
from torch import Tensor

from convloop.training.loaders import OrderedBatches, ShuffledBatches


def _numbered(count: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(count, 2, 2, 3, dtype=torch.uint8), torch.arange(count)


def _shuffled(count: int, *, epoch: int = 0, seed: int = 1, rank: int = 0, world_size: int = 1) -> ShuffledBatches:
    return ShuffledBatches(
        *_numbered(count), batch_size=8, seed=seed, epoch=lambda: epoch, rank=rank, world_size=world_size
    )


def _labels(batches: ShuffledBatches | OrderedBatches) -> list[int]:
    return [label for _, labels_N in batches for label in labels_N.tolist()]


def test_an_epoch_shows_each_image_once() -> None:
    assert sorted(_labels(_shuffled(21))) == list(range(21))


def test_the_last_batch_may_be_short() -> None:
    assert [len(labels_N) for _, labels_N in _shuffled(21)] == [8, 8, 5]


def test_length_counts_the_batches() -> None:
    assert len(_shuffled(21)) == len(list(_shuffled(21))) == 3


def test_the_same_seed_and_epoch_give_the_same_order() -> None:
    assert _labels(_shuffled(50, epoch=3)) == _labels(_shuffled(50, epoch=3))


def test_another_epoch_gives_another_order() -> None:
    assert _labels(_shuffled(50, epoch=3)) != _labels(_shuffled(50, epoch=4))


def test_another_seed_gives_another_order() -> None:
    assert _labels(_shuffled(50, seed=1)) != _labels(_shuffled(50, seed=2))


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_see_the_batches_of_one_process(world_size: int) -> None:
    alone = [sorted(labels_N.tolist()) for _, labels_N in _shuffled(64)]
    ranks = [list(_shuffled(64, rank=rank, world_size=world_size)) for rank in range(world_size)]

    together = [
        sorted(label for _, labels_N in step for label in labels_N.tolist()) for step in zip(*ranks, strict=True)
    ]

    assert together == alone


def test_every_rank_gets_as_many_images_even_when_they_do_not_divide() -> None:
    assert [len(_labels(_shuffled(23, rank=rank, world_size=4))) for rank in range(4)] == [5, 5, 5, 5]


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_validation_sees_each_image_exactly_once_over_all_ranks(world_size: int) -> None:
    seen = [
        label
        for rank in range(world_size)
        for label in _labels(OrderedBatches(*_numbered(23), batch_size=4, rank=rank, world_size=world_size))
    ]

    assert sorted(seen) == list(range(23))
