"""The data gate's findings."""

import numpy as np

from convloop.core.audit import Finding, audit
from convloop.core.split import TEST, TRAIN, VAL

from .pictures import images_of, random_pixels

CLASSES = ("cat", "dog")


def _audit(
    labels: list[int], splits: list[int], *, twins: tuple[int, int] | None = None, least: int = 1
) -> list[Finding]:
    pixels_NHWC = random_pixels(len(labels))
    if twins:
        pixels_NHWC[twins[1]] = pixels_NHWC[twins[0]]
    images = images_of(pixels_NHWC, labels, CLASSES)
    return audit(images, np.array(splits, np.int8), min_class_image_count=least)


def test_sound_data_give_no_finding() -> None:
    assert _audit([0, 1] * 3, [TRAIN, TRAIN, VAL, VAL, TEST, TEST]) == []


def test_a_scarce_class_blocks_in_each_split() -> None:
    assert _audit([0, 1, 0, 1, 0], [TRAIN, TRAIN, VAL, VAL, TEST]) == [
        Finding("scarce_class", True, "class dog has 0 images in test; prepare.min_class_image_count asks for 1")
    ]


def test_a_class_below_the_count_asked_for_blocks() -> None:
    findings = _audit([0, 1] * 3, [TRAIN, TRAIN, VAL, VAL, TEST, TEST], least=2)
    assert [finding.message for finding in findings] == [
        f"class {name} has 1 images in {split}; prepare.min_class_image_count asks for 2"
        for split in ("train", "val", "test")
        for name in CLASSES
    ]


def test_twins_in_two_splits_block() -> None:
    assert _audit([0, 1] * 3, [TRAIN, TRAIN, VAL, VAL, TEST, TEST], twins=(0, 4)) == [
        Finding(
            "twins_across_splits",
            True,
            "identical pixels under different splits (1 times, first 00000, 00004)",
        )
    ]


def test_twins_in_two_classes_block() -> None:
    assert _audit([0, 1] * 3, [TRAIN, TRAIN, VAL, VAL, TEST, TEST], twins=(2, 3)) == [
        Finding(
            "twins_across_classes",
            True,
            "identical pixels under different labels (1 times, first 00002, 00003)",
        )
    ]


def test_twins_in_one_split_and_class_are_fine() -> None:
    assert _audit([0, 0, 1, 0, 1, 0, 1], [TRAIN, TRAIN, TRAIN, VAL, VAL, TEST, TEST], twins=(0, 1)) == []


def test_strong_imbalance_warns_without_blocking() -> None:
    labels = [0] * 63 + [1] * 3
    splits = [TRAIN] * 61 + [VAL, TEST] + [TRAIN, VAL, TEST]
    assert _audit(labels, splits) == [Finding("imbalance", False, "class cat has 21 times as many images as dog")]


def test_twenty_to_one_is_not_yet_worth_a_warning() -> None:
    labels = [0] * 60 + [1] * 3
    splits = [TRAIN] * 58 + [VAL, TEST] + [TRAIN, VAL, TEST]
    assert _audit(labels, splits) == []
