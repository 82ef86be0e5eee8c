"""The packaged graph and the digest that names it."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from convloop.core.card import CARD_FILE, ModelCard
from convloop.core.nets.plain import cnn
from convloop.core.package import GRAPH_FILE, Package, Servable, normalise, with_digest
from convloop.errors import DataError

from .pictures import random_pixels

CARD = ModelCard(("cat", "dog"), 8, 3, "cnn", 4, (100.0, 110.0, 120.0), (50.0, 60.0, 70.0))


def _net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return cnn(8, 3, 2, channels=(4,), hidden_count=5)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package without MLflow's own files, which the core never reads."""
    folder = tmp_path_factory.mktemp("package")
    for file in (folder / CARD_FILE, folder / GRAPH_FILE):
        file.parent.mkdir()
    (folder / CARD_FILE).write_text(json.dumps(asdict(CARD)))
    servable = Servable(_net(), CARD.mean_C, CARD.std_C).eval()
    example = (torch.zeros(2, 8, 8, 3, dtype=torch.uint8),)
    graph = torch.export.export(servable, example, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(graph, folder / GRAPH_FILE)
    return folder


def test_normalising_takes_mean_and_deviation_off_each_channel() -> None:
    pixels_NHWC = random_pixels(3)
    images_NCHW = normalise(torch.from_numpy(pixels_NHWC), torch.tensor(CARD.mean_C), torch.tensor(CARD.std_C))
    expected_NHWC = (pixels_NHWC - np.array(CARD.mean_C)) / np.array(CARD.std_C)
    np.testing.assert_allclose(images_NCHW.numpy(), expected_NHWC.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-6)


def test_normalised_images_stay_channels_last_in_memory() -> None:
    images_NCHW = normalise(torch.from_numpy(random_pixels(3)), torch.tensor(CARD.mean_C), torch.tensor(CARD.std_C))
    assert images_NCHW.is_contiguous(memory_format=torch.channels_last)


def test_answers_are_the_softmax_of_the_net_on_normalised_pixels(packaged: Path) -> None:
    pixels_NHWC = random_pixels(7)
    normal_NHWC = (pixels_NHWC - np.array(CARD.mean_C)) / np.array(CARD.std_C)
    with torch.no_grad():
        logits_NK = _net()(torch.from_numpy(normal_NHWC.transpose(0, 3, 1, 2)).float())
    answers_NK = Package(packaged).probabilities(pixels_NHWC, batch_size=7)
    assert answers_NK.dtype == np.float32
    np.testing.assert_allclose(answers_NK, softmax(logits_NK.numpy(), 1), atol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_no_answer(packaged: Path, batch_size: int) -> None:
    package, pixels_NHWC = Package(packaged), random_pixels(7)
    np.testing.assert_allclose(
        package.probabilities(pixels_NHWC, batch_size=batch_size),
        package.probabilities(pixels_NHWC, batch_size=7),
        atol=1e-6,
    )


def test_no_images_get_no_answers(packaged: Path) -> None:
    assert Package(packaged).probabilities(random_pixels(0), batch_size=4).shape == (0, 2)


def test_images_turned_around_in_memory_get_the_same_answers(packaged: Path) -> None:
    package, pixels_NHWC = Package(packaged), random_pixels(4)
    turned_NHWC = pixels_NHWC[:, ::-1]
    np.testing.assert_array_equal(
        package.probabilities(turned_NHWC, batch_size=4), package.probabilities(turned_NHWC.copy(), batch_size=4)
    )


def test_a_package_knows_its_card(packaged: Path) -> None:
    assert Package(packaged).card == CARD


def test_a_damaged_graph_is_named(packaged: Path, tmp_path: Path) -> None:
    for file in (tmp_path / CARD_FILE, tmp_path / GRAPH_FILE):
        file.parent.mkdir()
    (tmp_path / CARD_FILE).write_bytes((packaged / CARD_FILE).read_bytes())
    (tmp_path / GRAPH_FILE).write_bytes((packaged / GRAPH_FILE).read_bytes()[:500])
    with pytest.raises(DataError) as caught:
        Package(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / GRAPH_FILE} cannot be loaded: {caught.value.__cause__}. Make it again: dvc repro --force train"
    )


def test_the_digest_is_the_same_for_the_same_weights_and_card() -> None:
    assert with_digest(CARD, _net()) == with_digest(CARD, _net())


def test_the_digest_changes_no_other_fact() -> None:
    named = with_digest(CARD, _net())
    assert len(named.digest) == 64
    assert replace(named, digest="") == CARD


def test_the_digest_does_not_depend_on_an_earlier_one() -> None:
    named = with_digest(CARD, _net())
    assert with_digest(named, _net()) == named


def test_the_digest_changes_with_one_weight() -> None:
    net = _net()
    before = with_digest(CARD, net).digest
    with torch.no_grad():
        net.get_parameter("output.bias")[0] += 1e-6
    assert with_digest(CARD, net).digest != before


@pytest.mark.parametrize(
    "other",
    [
        replace(CARD, classes=("dog", "cat")),
        replace(CARD, image_px=9),
        replace(CARD, net="other"),
        replace(CARD, epoch=5),
        replace(CARD, mean_C=(100.0, 110.0, 121.0)),
        replace(CARD, std_C=(50.0, 60.0, 71.0)),
    ],
)
def test_the_digest_changes_with_each_fact_of_the_card(other: ModelCard) -> None:
    assert with_digest(other, _net()).digest != with_digest(CARD, _net()).digest


def test_the_digest_does_not_depend_on_the_layout_in_memory() -> None:
    net = _net()
    weight = net.get_parameter("conv1.weight")
    weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    assert with_digest(CARD, net).digest == with_digest(CARD, _net()).digest


def test_a_flipping_package_answers_with_the_mean_of_the_logits_of_an_image_and_its_mirror() -> None:
    pixels_NHWC = torch.from_numpy(random_pixels(5))
    servable = Servable(_net(), CARD.mean_C, CARD.std_C, test_flip=True).eval()
    with torch.no_grad():
        answers_NK = servable(pixels_NHWC).numpy()
        mean_C, std_C = torch.tensor(CARD.mean_C), torch.tensor(CARD.std_C)
        plain_NK, mirrored_NK = (
            _net()(normalise(torch.from_numpy(np.ascontiguousarray(pixels)), mean_C, std_C)).numpy()
            for pixels in (pixels_NHWC.numpy(), pixels_NHWC.numpy()[:, :, ::-1])
        )
    np.testing.assert_allclose(answers_NK, softmax((plain_NK + mirrored_NK) / 2, 1), atol=1e-6)


@pytest.mark.parametrize("test_flip", [False, True])
def test_a_shifting_package_weighs_the_image_as_much_as_its_two_moved_ones_together(test_flip: bool) -> None:
    pixels_NHWC = random_pixels(5)
    side_px = pixels_NHWC.shape[1]
    padded_NHWC = np.pad(pixels_NHWC, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    views = [(pixels_NHWC, 0.5), (padded_NHWC[:, :side_px, :side_px], 0.25), (padded_NHWC[:, 4:, 4:], 0.25)]
    if test_flip:
        views = [(side_NHWC, share / 2) for view, share in views for side_NHWC in (view, view[:, :, ::-1])]
    mean_C, std_C = torch.tensor(CARD.mean_C), torch.tensor(CARD.std_C)
    with torch.no_grad():
        logits_NK = sum(
            share * _net()(normalise(torch.from_numpy(np.ascontiguousarray(view)), mean_C, std_C)).numpy()
            for view, share in views
        )
        servable = Servable(_net(), CARD.mean_C, CARD.std_C, test_flip=test_flip, test_shift_px=2).eval()
        answers_NK = servable(torch.from_numpy(pixels_NHWC)).numpy()

    np.testing.assert_allclose(answers_NK, softmax(logits_NK, 1), atol=1e-6)
