"""Every image once an epoch over all ranks, in an order that seed and epoch decide."""

import pytest
import torch
from torch import Tensor

from convloop.core.augment import mirrored_in
from convloop.training.loaders import OrderedBatches, ShuffledBatches


def _numbered(count: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(count, 2, 2, 3, dtype=torch.uint8), torch.arange(count)


def _shuffled(count: int, *, epoch: int = 0, seed: int = 1, rank: int = 0, world_size: int = 1) -> ShuffledBatches:
    return ShuffledBatches(
        *_numbered(count), batch_size=8, seed=seed, epoch=lambda: epoch, rank=rank, world_size=world_size
    )


def _labels(batches: ShuffledBatches | OrderedBatches) -> list[int]:
    """List what counts."""
    return [label for _, labels_N, weight, *_ in batches if weight for label in labels_N.tolist()]


def test_an_epoch_shows_each_image_once() -> None:
    assert sorted(_labels(_shuffled(21))) == list(range(21))


def test_the_last_batch_may_be_short() -> None:
    assert [len(labels_N) for _, labels_N, *_ in _shuffled(21)] == [8, 8, 5]


def test_length_counts_the_batches() -> None:
    assert len(_shuffled(21)) == len(list(_shuffled(21))) == 3


def test_the_same_seed_and_epoch_give_the_same_order() -> None:
    assert _labels(_shuffled(50, epoch=3)) == _labels(_shuffled(50, epoch=3))


def test_another_epoch_gives_another_order() -> None:
    assert _labels(_shuffled(50, epoch=3)) != _labels(_shuffled(50, epoch=4))


def test_another_seed_gives_another_order() -> None:
    assert _labels(_shuffled(50, seed=1)) != _labels(_shuffled(50, seed=2))


@pytest.mark.parametrize("count", [64, 63, 57])
@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_ranks_together_see_the_batches_of_one_process(world_size: int, count: int) -> None:
    alone = [sorted(labels_N.tolist()) for _, labels_N, *_ in _shuffled(count)]
    ranks = [list(_shuffled(count, rank=rank, world_size=world_size)) for rank in range(world_size)]

    together = [
        sorted(label for _, labels_N, weight, _ in step if weight for label in labels_N.tolist())
        for step in zip(*ranks, strict=True)
    ]

    assert together == alone


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_weighted_mean_over_ranks_is_the_mean_of_the_batch(world_size: int) -> None:
    alone = [labels_N.double().mean() for _, labels_N, *_ in _shuffled(57)]
    ranks = [list(_shuffled(57, rank=rank, world_size=world_size)) for rank in range(world_size)]

    means = [
        torch.stack([labels_N.double().mean() * weight for _, labels_N, weight, _ in step]).mean()
        for step in zip(*ranks, strict=True)
    ]

    torch.testing.assert_close(means, alone)


def test_weight_is_one_where_all_ranks_hold_as_many_images() -> None:
    assert [weight for _, _, weight, _ in _shuffled(57, rank=1, world_size=4)] == [1] * 7 + [0]


def test_a_rank_without_an_image_takes_part_with_one_that_does_not_count() -> None:
    last = [list(_shuffled(25, rank=rank, world_size=4))[-1] for rank in range(4)]

    assert [(len(labels_N), weight) for _, labels_N, weight, _ in last] == [(1, 4), (1, 0), (1, 0), (1, 0)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_image_is_mirrored_by_its_place_in_the_data_and_the_epoch_whichever_rank_shows_it(world_size: int) -> None:
    for epoch in (0, 1):
        expected_N = mirrored_in(epoch, 21, seed=1)
        for rank in range(world_size):
            for _, labels_N, _, mirrored_N in _shuffled(21, epoch=epoch, rank=rank, world_size=world_size):
                assert torch.equal(mirrored_N, expected_N[labels_N])


@pytest.mark.parametrize("done", [1, 2])
def test_an_epoch_that_goes_on_has_the_batches_that_are_left(done: int) -> None:
    whole = [labels_N.tolist() for _, labels_N, *_ in _shuffled(21, epoch=3)]
    cut = _shuffled(21, epoch=3)
    for _, _ in zip(range(done), cut, strict=False):
        pass
    resumed = _shuffled(21, epoch=3)
    resumed.load_state_dict(cut.state_dict())

    assert [labels_N.tolist() for _, labels_N, *_ in resumed] == whole[done:]


def test_the_epoch_after_one_that_goes_on_is_whole() -> None:
    epoch = 3
    batches = ShuffledBatches(*_numbered(21), batch_size=8, seed=1, epoch=lambda: epoch, rank=0, world_size=1)
    batches.load_state_dict({"epoch": 3, "batch": 3})

    assert _labels(batches) == []
    epoch = 4
    assert sorted(_labels(batches)) == list(range(21))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 24])
def test_validation_sees_each_image_exactly_once_over_all_ranks(world_size: int) -> None:
    ranks = [
        OrderedBatches(*_numbered(23), batch_size=10, rank=rank, world_size=world_size) for rank in range(world_size)
    ]

    assert sorted(label for batches in ranks for label in _labels(batches)) == list(range(23))
    assert {len(list(batches)) for batches in ranks} == {3}
