"""Rare classes: weighed in the loss or drawn more often, the same however many ranks share the work."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from convloop.core.nets.plain import cnn2
from convloop.training.classifier import Classifier, inverse_frequency, training_loss
from convloop.training.loaders import ShuffledBatches
from tests.conftest import Convloop

_COUNTS = (50, 30, 4)


def _labels() -> Tensor:
    return torch.repeat_interleave(torch.arange(3), torch.tensor(_COUNTS))


def _logits(count: int) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1))


def _balanced(*, epoch: int = 0, rank: int = 0, world_size: int = 1) -> ShuffledBatches:
    """Batches whose pixels hold the number of the image."""
    labels_N = _labels()
    return ShuffledBatches(
        torch.arange(len(labels_N), dtype=torch.uint8),
        labels_N,
        batch_size=8,
        seed=1,
        epoch=lambda: epoch,
        rank=rank,
        world_size=world_size,
        sampling="balanced",
    )


# Class weights


def test_classes_weigh_the_same_in_all_and_an_image_one_on_the_mean() -> None:
    weights_K = inverse_frequency(_labels(), 3)

    np.testing.assert_allclose(weights_K * torch.tensor(_COUNTS), 84 / 3)
    assert weights_K[_labels()].mean() == pytest.approx(1)


def test_equal_classes_have_weight_one() -> None:
    assert inverse_frequency(torch.tensor([0, 1, 2, 2, 0, 1]), 3).tolist() == [1, 1, 1]


def test_loss_over_all_training_images_is_the_weighted_mean_of_pytorch() -> None:
    weights_K = inverse_frequency(_labels(), 3)

    loss = training_loss(_logits(84), _labels(), weights_K)

    assert loss == pytest.approx(float(cross_entropy(_logits(84), _labels(), weight=weights_K)))


def test_loss_without_weights_is_that_of_pytorch() -> None:
    assert training_loss(_logits(84), _labels(), None) == cross_entropy(_logits(84), _labels())


@pytest.mark.parametrize("world_size", [2, 4])
def test_gradient_averaged_over_ranks_is_that_of_the_whole_batch(world_size: int) -> None:
    labels_N, weights_K = _labels()[::7], inverse_frequency(_labels(), 3)

    def gradient(part: slice) -> Tensor:
        logits_NK = _logits(len(labels_N)).requires_grad_()
        (slope_NK,) = torch.autograd.grad(training_loss(logits_NK[part], labels_N[part], weights_K), logits_NK)
        return slope_NK

    ranks = torch.stack([gradient(slice(rank, None, world_size)) for rank in range(world_size)]).mean(0)

    torch.testing.assert_close(ranks, gradient(slice(None)))


def test_classifier_learns_from_the_weighted_loss() -> None:
    torch.manual_seed(5)
    weights_K = torch.tensor([0.5, 2.0, 3.0])
    classifier = Classifier(cnn2(16, 3, 3), (128.0,) * 3, (60.0,) * 3, 0.002, weights_K)
    images_NHWC = torch.randint(0, 256, (6, 16, 16, 3), dtype=torch.uint8)
    labels_N = torch.tensor([0, 0, 0, 1, 2, 2])
    classifier.on_train_epoch_start()

    loss = classifier.training_step((images_NHWC, labels_N, 1.0, torch.zeros(6, dtype=torch.bool)), 0)

    each_N = cross_entropy(classifier(images_NHWC), labels_N, reduction="none")
    assert loss.item() == pytest.approx((weights_K[labels_N] * each_N).sum().item() / 6)


def test_class_weights_are_not_part_of_the_weights_that_are_kept() -> None:
    classifier = Classifier(cnn2(16, 3, 3), (128.0,) * 3, (60.0,) * 3, 0.002, torch.ones(3))

    assert [name for name in classifier.state_dict() if "weights" in name] == []


# Balanced sampling


def test_balanced_epoch_shows_as_many_images_of_every_class() -> None:
    seen = torch.cat([labels_N for _, labels_N, *_ in _balanced()])

    assert seen.bincount().tolist() == [28, 28, 28]


def test_balanced_epoch_that_does_not_divide_gives_the_rest_to_some_classes() -> None:
    labels_N = torch.tensor([0] * 20 + [1] * 3)
    batches = ShuffledBatches(
        torch.zeros(23), labels_N, batch_size=8, seed=1, epoch=lambda: 0, rank=0, world_size=1, sampling="balanced"
    )

    assert sorted(torch.cat([batch_N for _, batch_N, *_ in batches]).bincount().tolist()) == [11, 12]


def test_images_of_a_rare_class_come_equally_often() -> None:
    times_N = torch.cat([numbers_N for numbers_N, *_ in _balanced()]).bincount(minlength=84)

    assert set(times_N[80:].tolist()) == {7}  # 28 draws over 4 images
    assert set(times_N[:50].tolist()) == {0, 1}  # 28 draws over 50 images


def test_images_of_a_frequent_class_take_turns() -> None:
    epochs = [torch.cat([numbers_N for numbers_N, *_ in _balanced(epoch=epoch)]) for epoch in range(8)]

    assert set(range(84)) == set(torch.cat(epochs).tolist())


def test_classes_are_mixed_within_batches() -> None:
    assert all(len(set(labels_N.tolist())) > 1 for _, labels_N, *_ in _balanced())


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_together_draw_the_balanced_batches_of_one_process(world_size: int) -> None:
    alone = [sorted(numbers_N.tolist()) for numbers_N, *_ in _balanced()]
    ranks = [list(_balanced(rank=rank, world_size=world_size)) for rank in range(world_size)]

    together = [sorted(torch.cat([numbers_N for numbers_N, *_ in step]).tolist()) for step in zip(*ranks, strict=True)]

    assert together == alone


@pytest.mark.slow
@pytest.mark.system
@pytest.mark.parametrize("choice", ["train.class_weights=inverse_frequency", "train.sampling=balanced"])
def test_four_real_ranks_reach_the_losses_of_one_process(project: Path, convloop: Convloop, choice: str) -> None:
    assert convloop("generate", "--set", "generate.imbalance_ratio=9").returncode == 0
    assert convloop("prepare", "--set", "prepare.min_class_image_count=1").returncode == 0
    card = json.loads((project / "data/prepared/card.json").read_text())
    assert [counts["train"] for counts in card["class_image_count"].values()] == [294, 109, 31]

    def history(*words: str) -> list[float]:
        # 434 images in batches of 36: of the last batch two ranks hold an image and two hold none.
        answer = convloop("train", "--set", "train.accelerator=cpu", "--set", "train.batch_size=36", *words)
        assert answer.returncode == 0, answer.stderr
        last = (project / "reports/train/history.csv").read_text().splitlines()[-1]
        return [float(value) for value in last.split(",")[1:5]]

    alone = history("--set", choice)
    ranks = history("--set", choice, "--set", "train.devices=4", "--set", "train.strategy=ddp")
    plain = history()

    assert ranks == pytest.approx(alone, abs=1e-4)
    assert abs(plain[0] - alone[0]) > 5e-2
