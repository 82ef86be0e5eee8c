"""Wrong labels are found by a model that has not seen them."""

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.core.images import Images
from convloop.core.label_errors import confident_errors, find_label_errors
from tests.conftest import REPOSITORY

from .pictures import images_of, random_pixels

CLASSES = ("across", "down", "dots")


def _stripes(labels: list[int], side_px: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    """Draw stripes across, stripes down or dots, shifted and noisy: easy, but not by the mean of a pixel."""
    rng = np.random.default_rng(seed)
    place = np.arange(side_px)
    pixels = rng.integers(0, 60, (len(labels), side_px, side_px, 1))
    for image_HWC, label in zip(pixels, labels, strict=True):
        rows, columns = ((place + rng.integers(4)) % 4 < 2), ((place + rng.integers(4)) % 4 < 2)
        lit_HW = [
            rows[:, None] & np.ones(side_px, bool),
            columns & np.ones((side_px, 1), bool),
            rows[:, None] & columns,
        ]
        image_HWC[lit_HW[label]] += 150
    return pixels.astype(np.uint8)


def _mislabelled(count: int = 600, wrong_count: int = 30) -> tuple[Images, set[int]]:
    labels = [index % 3 for index in range(count)]
    pixels_NHWC = _stripes(labels)
    for index in range(wrong_count):
        labels[index] = (labels[index] + 1) % 3
    return images_of(pixels_NHWC, labels, CLASSES), set(range(wrong_count))


def test_wrong_labels_are_found_and_the_right_ones_suggested() -> None:
    images, wrong = _mislabelled()
    found = find_label_errors(images, max_image_count=1_000)
    suspects = found.suspects_S[:30].tolist()
    assert len(wrong & set(suspects)) >= 24
    right = [found.suggested_S[place] == index % 3 for place, index in enumerate(suspects) if index in wrong]
    assert np.mean(right) > 0.9
    assert found.accuracy > 0.8
    assert found.examined_count == 600


def test_random_labels_accuse_nobody() -> None:
    images = images_of(random_pixels(600), [index % 3 for index in range(600)], CLASSES)
    found = find_label_errors(images, max_image_count=1_000)
    assert len(found.suspects_S) == 0
    assert found.accuracy < 0.5


def test_no_more_images_than_asked_for_are_examined_and_always_the_same() -> None:
    images, _ = _mislabelled()
    one, other = (find_label_errors(images, max_image_count=300) for _ in range(2))
    assert one.examined_count == 300
    np.testing.assert_array_equal(one.suspects_S, other.suspects_S)


def test_none_is_examined_where_none_is_asked_for() -> None:
    images, _ = _mislabelled()
    found = find_label_errors(images, max_image_count=0)
    assert (found.examined_count, len(found.suspects_S)) == (0, 0)


def test_three_images_are_too_few_to_examine() -> None:
    found = find_label_errors(images_of(_stripes([0, 1, 2]), [0, 1, 2], CLASSES), max_image_count=1_000)
    assert (found.examined_count, len(found.suspects_S)) == (0, 0)


def test_confident_errors_are_those_of_the_definition_worked_by_hand() -> None:
    """Usual are 0.6 for class 0 (.9 .8 .1) and 0.6 for class 1 (.7 .5)."""
    first_N = np.array([0.9, 0.8, 0.1, 0.3, 0.5])
    probabilities_NK = np.stack([first_N, 1 - first_N], 1)
    suspects, suggested = confident_errors(probabilities_NK, np.array([0, 0, 0, 1, 1]))
    assert suspects.tolist() == [2]
    assert suggested.tolist() == [1]


def test_the_surest_suspect_comes_first() -> None:
    first_N = np.array([0.9, 0.9, 0.9, 0.2, 0.05, 0.1, 0.1, 0.1])
    probabilities_NK = np.stack([first_N, 1 - first_N], 1)
    suspects, _ = confident_errors(probabilities_NK, np.array([0, 0, 0, 0, 0, 1, 1, 1]))
    assert suspects.tolist() == [4]


def test_a_class_that_no_image_carries_is_never_suggested() -> None:
    probabilities_NK = np.array([[0.1, 0.1, 0.8]] * 4 + [[0.8, 0.1, 0.1]] * 4)
    _, suggested = confident_errors(probabilities_NK, np.array([0, 1, 0, 1, 0, 1, 0, 1]))
    assert 2 not in suggested.tolist()


@pytest.mark.slow
def test_human_label_errors_of_cifar10_are_found_better_than_by_chance() -> None:
    labels_file = REPOSITORY.parent / "shared/data/cifar10n_labels.npz"
    mosaic_file = labels_file.with_name("cifar10_train_1.webp")
    if not labels_file.is_file() or not mosaic_file.is_file():
        pytest.skip(f"{labels_file} is missing: human labels of CIFAR-10")
    from PIL import Image

    with Image.open(mosaic_file) as mosaic:
        pixels = np.asarray(mosaic.convert("RGB"))
    rows, columns = pixels.shape[0] // 32, pixels.shape[1] // 32
    images_NHWC = pixels.reshape(rows, 32, columns, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    with np.load(labels_file) as archive:
        given, true = archive["aggre_label"][:10_000].astype(np.int64), archive["clean_label"][:10_000]
    found = find_label_errors(
        images_of(np.ascontiguousarray(images_NHWC), given.tolist(), tuple("abcdefghij")), max_image_count=10_000
    )
    wrong_N = given != true
    assert wrong_N[found.suspects_S[:500]].mean() > 3 * wrong_N.mean()
