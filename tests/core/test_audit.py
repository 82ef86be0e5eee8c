"""The data gate's findings."""

from dataclasses import replace

import numpy as np
import pytest

from convloop.core.audit import Expected, Finding, audit
from convloop.core.images import NO_SPLIT, Images
from convloop.core.label_errors import LabelErrors
from convloop.core.looks import measure_looks
from convloop.core.modes import MODES
from convloop.core.split import TEST, TRAIN, VAL
from convloop.core.twins import NearTwins

from .pictures import images_of, random_pixels

CLASSES = ("cat", "dog")
# Enough test images of both classes for no warning.
LABELS = [0, 1] * 34
SPLITS = [TRAIN] * 4 + [VAL] * 4 + [TEST] * 60
NO_SUSPECTS = LabelErrors(np.empty(0, np.int64), np.empty(0, np.int64), 0.9, 68)
NO_TWINS = NearTwins(np.empty((0, 2), np.int64), np.empty(0, np.float32), 7, 0.0)


def _images(labels: list[int], twins: tuple[int, int] | None = None) -> Images:
    pixels_NHWC = random_pixels(len(labels))
    if twins:
        pixels_NHWC[twins[1]] = pixels_NHWC[twins[0]]
    return images_of(pixels_NHWC, labels, CLASSES)


def _audit(
    labels: list[int] = LABELS,
    splits: list[int] = SPLITS,
    *,
    twins: tuple[int, int] | None = None,
    near: list[tuple[int, int]] | None = None,
    expected: Expected = Expected(1),  # noqa: B008 - it is frozen
    images: Images | None = None,
    suspects: LabelErrors = NO_SUSPECTS,
) -> list[Finding]:
    images = images or _images(labels, twins)
    pairs_P2 = np.array(near or [], np.int64).reshape(-1, 2)
    found = replace(NO_TWINS, pairs_P2=pairs_P2, correlation_P=np.ones(len(pairs_P2), np.float32))
    return audit(images, np.array(splits, np.int8), found, measure_looks(images), suspects, expected)


def test_sound_data_give_no_finding() -> None:
    assert _audit() == []


def test_a_scarce_class_blocks_in_each_split() -> None:
    splits = [TRAIN if split == TEST and label else split for split, label in zip(SPLITS, LABELS, strict=True)]
    assert _audit(splits=splits) == [
        Finding("scarce_class", True, "class dog has 0 images in test; prepare.min_class_image_count asks for 1")
    ]


def test_a_class_below_the_count_asked_for_blocks() -> None:
    findings = _audit(expected=Expected(3))
    assert [finding.message for finding in findings] == [
        f"class {name} has 2 images in {split}; prepare.min_class_image_count asks for 3"
        for split in ("train", "val")
        for name in CLASSES
    ]


def test_fewer_than_thirty_test_images_of_a_class_warn() -> None:
    assert _audit(splits=[*SPLITS[:-1], TRAIN]) == [
        Finding("few_test_images", False, "1 class has fewer than 30 test images (dog 29): their scores are rough")
    ]


def test_twins_in_two_splits_block() -> None:
    assert _audit(twins=(0, 8)) == [
        Finding(
            "twins_across_splits",
            True,
            "identical pixels under different splits (1 times, first 00000, 00008)",
            ((0, 8),),
        )
    ]


def test_a_twin_that_is_left_out_lies_in_no_split() -> None:
    assert _audit(splits=[NO_SPLIT, *SPLITS[1:]], twins=(0, 8)) == []


def test_twins_in_two_classes_block() -> None:
    assert _audit(twins=(0, 1)) == [
        Finding(
            "twins_across_classes",
            True,
            "identical pixels under different labels (1 times, first 00000, 00001)",
            ((0, 1),),
        )
    ]


def test_every_group_of_twins_is_an_offender() -> None:
    pixels_NHWC = random_pixels(len(LABELS))
    pixels_NHWC[[3, 9]] = pixels_NHWC[0]
    pixels_NHWC[20] = pixels_NHWC[5]
    images = images_of(pixels_NHWC, LABELS, CLASSES)
    across_classes = next(one for one in _audit(images=images) if one.rule == "twins_across_classes")
    assert set(across_classes.offenders) == {(0, 3, 9), (5, 20)}


def test_twins_in_one_split_and_class_are_fine() -> None:
    assert _audit(twins=(0, 2)) == []


def test_near_twins_between_test_and_train_warn() -> None:
    assert _audit(near=[(0, 8), (2, 8), (4, 10)]) == [
        Finding(
            "near_twins_across_splits",
            False,
            "2 test images have near-twins in train or val (3.3% of test; the source gave them these splits)",
            ((0, 8), (2, 8), (4, 10)),
        )
    ]


def test_near_twins_within_a_split_or_left_out_are_fine() -> None:
    assert _audit(splits=[NO_SPLIT, *SPLITS[1:]], near=[(0, 8), (8, 10), (2, 4)]) == []


def test_one_leaking_image_of_two_hundred_is_not_yet_worth_a_warning() -> None:
    labels, splits = [0, 1] * 104, [TRAIN] * 4 + [VAL] * 4 + [TEST] * 200
    assert _audit(labels, splits, near=[(0, 8)]) == []
    assert [one.rule for one in _audit(labels, splits, near=[(0, 8), (0, 10)])] == ["near_twins_across_splits"]


def test_near_twins_under_two_labels_warn() -> None:
    assert _audit(near=[(8, 9)]) == [
        Finding("near_twins_across_classes", False, "1 pair of near-twins under different labels", ((8, 9),))
    ]


def test_a_search_that_was_not_possible_warns() -> None:
    images = _images(LABELS)
    blind = replace(NO_TWINS, distance_bits=None, unsearched="it is a fine day")
    findings = audit(images, np.array(SPLITS, np.int8), blind, measure_looks(images), NO_SUSPECTS, Expected(1))
    assert findings == [
        Finding(
            "near_twins_unknown",
            False,
            "near-twins were not searched: it is a fine day",
        )
    ]


def test_strong_imbalance_warns_without_blocking() -> None:
    labels = [0] * 630 + [1] * 30
    splits = ([TRAIN, VAL] + [TEST] * 31) * 20
    messages = [finding.message for finding in _audit(labels, splits) if finding.rule == "imbalance"]
    assert messages == ["class cat has 21 times as many images as dog"]


def test_twenty_to_one_is_not_yet_worth_a_warning() -> None:
    labels, splits = [0] * 600 + [1] * 30, ([TRAIN, VAL] + [TEST] * 19) * 30
    assert "imbalance" not in [finding.rule for finding in _audit(labels, splits)]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (("cat", "dog", "emu"), "class emu of prepare.classes is not in the data"),
        (("cat",), "class dog of the data is not in prepare.classes"),
    ],
)
def test_other_classes_than_expected_block(classes: tuple[str, ...], message: str) -> None:
    assert _audit(expected=Expected(1, classes=classes)) == [Finding("classes", True, message)]


def test_the_classes_expected_in_any_order_pass() -> None:
    assert _audit(expected=Expected(1, classes=("dog", "cat"))) == []


def test_originals_of_another_size_than_expected_block() -> None:
    images = _images(LABELS)
    images.original_px_N2[:] = 40
    images.original_px_N2[3], images.original_px_N2[5] = (31, 40), (40, 101)
    assert _audit(images=images, expected=Expected(1, original_px_range=[32, 100])) == [
        Finding(
            "original_px",
            True,
            "2 images have a side outside 32 to 100 px, which prepare.original_px_range allows",
            ((3,), (5,)),
        )
    ]


def test_originals_enlarged_to_twice_their_side_warn() -> None:
    images = _images(LABELS)
    images.original_px_N2[7] = (4, 9)
    assert _audit(images=images) == [Finding("enlarged", False, "1 image was enlarged 2 times or more", ((7,),))]


def test_a_brightness_outside_what_is_expected_blocks() -> None:
    pixels_NHWC = random_pixels(len(LABELS))
    pixels_NHWC[6] //= 4
    images = images_of(pixels_NHWC, LABELS, CLASSES)
    assert _audit(images=images, expected=Expected(1, brightness_range=[60.0, 200.0])) == [
        Finding(
            "brightness",
            True,
            "1 image has a brightness outside 60 to 200, which prepare.brightness_range allows",
            ((6,),),
        )
    ]


def test_blank_black_and_white_pictures_warn() -> None:
    pixels_NHWC = random_pixels(len(LABELS))
    pixels_NHWC[4] = 128
    pixels_NHWC[5] //= 20
    pixels_NHWC[6] = 255 - pixels_NHWC[6] // 20
    assert _audit(images=images_of(pixels_NHWC, LABELS, CLASSES)) == [
        Finding("blank", False, "1 image shows next to nothing", ((4,),)),
        Finding("exposure", False, "2 images are nearly black or white", ((5,), (6,))),
    ]


def _with_modes(*codes: str) -> Images:
    """Make images of which the first ones were of some modes, all others RGB."""
    modes = [*codes, *["RGB"] * (len(LABELS) - len(codes))]
    return replace(_images(LABELS), modes_N=np.array([MODES.index(mode) for mode in modes], np.uint8))


def test_an_original_mode_that_is_not_allowed_blocks() -> None:
    findings = _audit(images=_with_modes("L", "RGBA", "RGBA"), expected=Expected(1, original_modes=("RGB", "L")))
    message = "2 images were of mode RGBA, and prepare.original_modes allows RGB, L"
    assert findings == [Finding("original_modes", True, message, ((1,), (2,)))]


def test_an_unknown_mode_has_to_be_allowed_by_that_word() -> None:
    assert [
        one.message for one in _audit(images=_with_modes("unknown"), expected=Expected(1, original_modes=("RGB",)))
    ] == ["1 image was of mode unknown, and prepare.original_modes allows RGB"]
    assert _audit(images=_with_modes("unknown"), expected=Expected(1, original_modes=("RGB", "unknown"))) == []


def test_a_mode_that_no_rule_names_warns_where_nothing_is_asked() -> None:
    assert _audit(images=_with_modes("unknown", "CMYK", "other")) == [
        Finding(
            "original_modes",
            False,
            "1 image was of a mode that no rule names; look whether the colours are right",
            ((2,),),
        )
    ]


def test_more_doubtful_labels_than_allowed_warn() -> None:
    suspects = replace(NO_SUSPECTS, suspects_S=np.array([3, 9]), suggested_S=np.array([0, 0]))
    assert _audit(suspects=suspects, expected=Expected(1, max_doubtful_share=0.02)) == [
        Finding(
            "label_errors",
            False,
            "2 labels of 68 examined look wrong to a simple model, a share of 0.0294; prepare.max_doubtful_share is 0.02",
        )
    ]
    assert _audit(suspects=suspects, expected=Expected(1, max_doubtful_share=0.03)) == []


def test_a_class_that_luck_alone_does_not_split_so_warns() -> None:
    splits, labels = ([TEST] * 2 + [TRAIN] * 7 + [VAL]) * 40, [0] * 400
    labels[:4] = [1] * 4
    splits += [TEST] * 60 + [TRAIN] * 70 + [VAL] * 10
    labels += [1] * 140
    findings = _audit(labels, splits, expected=Expected(1, val_share=0.1, test_share=0.2))
    assert findings == [
        Finding(
            "uneven_class",
            False,
            "class dog has 43.1% of its images in test where 20.0% were asked for: many of them are copies of each other",
        )
    ]


def test_a_class_is_not_held_to_shares_where_the_source_gives_splits() -> None:
    images = _images(LABELS)
    images.splits_N[0] = TRAIN
    assert _audit(images=images, expected=Expected(1, val_share=0.1, test_share=0.2)) == []
