"""What prepare writes down, and that it fits the images."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, Images
from convloop.core.looks import LOOKS, measure_looks
from convloop.core.modes import MODES
from convloop.core.prepared import channel_statistics, read_prepared, write_prepared
from convloop.core.split import TEST, TRAIN, VAL
from convloop.errors import DataError

from .pictures import images_of, random_pixels

CLASSES = ("cat", "dog")
SPLITS_N = np.array([TRAIN] * 6 + [VAL, VAL, TEST, TEST, TEST], np.int8)


def _images(seed: int = 0, count: int = 11) -> Images:
    labels = [index % 2 for index in range(count)]
    return images_of(random_pixels(count, seed=seed), labels, CLASSES, shard_sizes=(3, 4))


def _write(
    folder: Path, images: Images, splits_N: NDArray[np.int8], facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    return write_prepared(folder, images, splits_N, measure_looks(images), facts or {})


def _message(folder: Path, images: Images) -> str:
    with pytest.raises(DataError) as caught:
        read_prepared(folder, images)
    return str(caught.value)


def test_the_card_counts_original_modes_the_commonest_first(tmp_path: Path) -> None:
    codes = [MODES.index(mode) for mode in ["L"] * 3 + ["RGB"] * 7 + ["16-bit"]]
    card = _write(tmp_path, replace(_images(), modes_N=np.array(codes, np.uint8)), SPLITS_N)
    assert list(card["original_modes"].items()) == [("RGB", 7), ("L", 3), ("16-bit", 1)]


def test_modes_that_nobody_kept_are_unknown(tmp_path: Path) -> None:
    assert _write(tmp_path, _images(), SPLITS_N)["original_modes"] == {"unknown": 11}


@pytest.mark.parametrize("channel_count", [1, 3])
def test_statistics_are_those_of_numpy(channel_count: int) -> None:
    pixels_NHWC = random_pixels(11, channel_count=channel_count)
    indices = np.array([0, 2, 3, 7, 10])
    mean_C, std_C = channel_statistics(images_of(pixels_NHWC, [0] * 11, CLASSES, shard_sizes=(3, 4)), indices)
    np.testing.assert_allclose(mean_C, pixels_NHWC[indices].mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std_C, pixels_NHWC[indices].std((0, 1, 2)), rtol=1e-12)


def test_statistics_of_many_images_are_those_of_numpy() -> None:
    pixels_NHWC = random_pixels(20_001)
    mean_C, std_C = channel_statistics(images_of(pixels_NHWC, [0] * 20_001, CLASSES), np.arange(20_001))
    np.testing.assert_allclose(mean_C, pixels_NHWC.mean((0, 1, 2), dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(std_C, pixels_NHWC.std((0, 1, 2), dtype=np.float64), rtol=1e-9)


def test_a_channel_without_contrast_is_not_divided_by_zero() -> None:
    pixels_NHWC = np.full((2, 8, 8, 1), 9, np.uint8)
    assert channel_statistics(images_of(pixels_NHWC, [0, 1], CLASSES), np.arange(2)) == ([9.0], [1.0])


def test_prepared_gives_back_what_was_written(tmp_path: Path) -> None:
    images = _images()
    card = _write(tmp_path, images, SPLITS_N, {"warnings": ["a warning"]})
    prepared = read_prepared(tmp_path, images)
    np.testing.assert_array_equal(prepared.splits_N, SPLITS_N)
    assert prepared.card == card
    assert (list(prepared.mean_C), list(prepared.std_C)) == channel_statistics(images, np.arange(6))


def test_indices_are_those_of_a_split(tmp_path: Path) -> None:
    images = _images()
    _write(tmp_path, images, SPLITS_N)
    assert read_prepared(tmp_path, images).indices(VAL).tolist() == [6, 7]


def test_card_counts_images_by_split_and_class(tmp_path: Path) -> None:
    card = _write(tmp_path, _images(), SPLITS_N, {"warnings": ["a warning"]})
    assert card["image_count"] == 11
    assert card["split_image_count"] == {"train": 6, "val": 2, "test": 3}
    assert card["class_image_count"] == {
        "cat": {"train": 3, "val": 1, "test": 2},
        "dog": {"train": 3, "val": 1, "test": 1},
    }
    assert card["shape_HWC"] == [8, 8, 3]
    assert card["warnings"] == ["a warning"]


def test_the_digest_of_the_test_set_depends_on_nothing_else(tmp_path: Path) -> None:
    card = _write(tmp_path, _images(), SPLITS_N)
    pixels_NHWC = random_pixels(11)[::-1]
    others_NHWC = np.concatenate([pixels_NHWC[:3], random_pixels(4, seed=9)])
    splits_N = np.array([TEST] * 3 + [TRAIN] * 4, np.int8)
    other_card = _write(tmp_path, images_of(others_NHWC, [0] * 7, CLASSES), splits_N)
    assert other_card["test_sha256"] == card["test_sha256"]
    assert other_card["content_sha256"] != card["content_sha256"]


def test_card_says_what_was_left_out_and_how_large_the_originals_were(tmp_path: Path) -> None:
    images = _images()
    images.original_px_N2[0], images.original_px_N2[1] = (5, 90), (7, 7)
    splits_N = SPLITS_N.copy()
    splits_N[:2] = NO_SPLIT
    card = _write(tmp_path, images, splits_N)
    assert card["left_out_image_count"] == 2
    assert card["split_image_count"] == {"train": 4, "val": 2, "test": 3}
    assert card["original_px"] == {"smallest_side": 5, "median_smaller_side": 8.0, "largest_side": 90}


def test_card_names_the_version_of_the_test_set_that_each_arrival_made(tmp_path: Path) -> None:
    images = _images()
    images.arrivals_N[-1] = 2
    card = _write(tmp_path, images, SPLITS_N)
    assert (card["test_version"], card["test_sha256"]) == (2, card["test_versions"][1]["sha256"])
    assert [one["image_count"] for one in card["test_versions"]] == [2, 3]


def test_reference_for_drift_is_held_out_from_training(tmp_path: Path) -> None:
    images = _images()
    _write(tmp_path, images, SPLITS_N)
    with np.load(tmp_path / "reference.npz") as reference:
        assert reference["indices"].tolist() == [6, 7]
        assert tuple(reference["look_names"]) == LOOKS
        np.testing.assert_array_equal(reference["looks"], measure_looks(images)[6:8])
        np.testing.assert_array_equal(reference["content"], images.content_N[6:8])
        assert reference["labels"].tolist() == [0, 1]


def test_reference_for_drift_holds_five_thousand_images_at_most(tmp_path: Path) -> None:
    images = images_of(random_pixels(6_000, side_px=4), [0, 1] * 3_000, CLASSES)
    _write(tmp_path, images, np.array([TRAIN, *[VAL] * 5_998, TEST], np.int8))
    with np.load(tmp_path / "reference.npz") as reference:
        indices = reference["indices"]
    assert len(np.unique(indices)) == 5_000
    assert indices.min() > 0
    assert indices.max() < 5_999


@pytest.mark.parametrize("images", [_images(seed=1), _images(count=10)])
def test_other_images_are_refused(tmp_path: Path, images: Images) -> None:
    _write(tmp_path, _images(), SPLITS_N)
    assert _message(tmp_path, images) == (
        f"{tmp_path} was made from other images than data/raw and data/landed hold. Run dvc repro prepare"
    )


def test_a_split_of_another_length_is_refused(tmp_path: Path) -> None:
    _write(tmp_path, _images(), SPLITS_N)
    np.save(tmp_path / "splits.npy", SPLITS_N[:-1])
    assert _message(tmp_path, _images()) == (
        f"{tmp_path} was made from other images than data/raw and data/landed hold. Run dvc repro prepare"
    )


@pytest.mark.parametrize("name", ["card.json", "splits.npy"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    _write(tmp_path, _images(), SPLITS_N)
    (tmp_path / name).unlink()
    assert _message(tmp_path, _images()) == f"{tmp_path}/{name} is missing. Make it: dvc repro prepare"


def test_a_card_without_statistics_is_damaged(tmp_path: Path) -> None:
    card = _write(tmp_path, _images(), SPLITS_N)
    del card["mean_C"]
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert _message(tmp_path, _images()) == (
        f"{tmp_path} is damaged ('mean_C'). Make it again: dvc repro --force prepare"
    )


@pytest.mark.parametrize(
    ("name", "content"), [("card.json", b"["), ("card.json", b"[]"), ("splits.npy", b""), ("splits.npy", b"x" * 200)]
)
def test_a_damaged_file_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    _write(tmp_path, _images(), SPLITS_N)
    (tmp_path / name).write_bytes(content)
    message = _message(tmp_path, _images())
    assert message.startswith(f"{tmp_path} is damaged (")
    assert message.endswith("). Make it again: dvc repro --force prepare")
