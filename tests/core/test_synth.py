"""Drawn pictures: every dial does what it says, and nothing else."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chisquare
from sklearn.feature_selection import f_classif
from sklearn.linear_model import LogisticRegression

from convloop.config import GenerateParams
from convloop.core.images import NO_SPLIT, content_hashes
from convloop.core.synth import MAX_CLASS_COUNT, class_names, noise_batches, synthetic_batches

DIALS: dict[str, Any] = {
    "seed": 7,
    "image_count": 10_000,
    "class_count": 10,
    "image_px": 8,
    "channel_count": 3,
    "difficulty_share": 0.25,
    "label_noise_share": 0.0,
    "imbalance_ratio": 1.0,
    "shift_share": 0.0,
}
NOISE_DIALS: dict[str, Any] = {"seed": 7, "image_count": 10_000, "class_count": 10, "image_px": 8, "channel_count": 3}


def _drawn(**dials: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batches = list(synthetic_batches(**{**DIALS, **dials}))
    return np.concatenate([batch.images_NHWC for batch in batches]), np.concatenate([b.labels_N for b in batches])


def _noise(**dials: Any) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    batches = list(noise_batches(**{**NOISE_DIALS, **dials}))
    return np.concatenate([batch.images_NHWC for batch in batches]), np.concatenate([b.labels_N for b in batches])


def test_the_same_seed_draws_the_same_images() -> None:
    (first_NHWC, first_N), (second_NHWC, second_N) = _drawn(), _drawn()
    np.testing.assert_array_equal(first_NHWC, second_NHWC)
    np.testing.assert_array_equal(first_N, second_N)


def test_another_seed_draws_other_images() -> None:
    assert not set(content_hashes(_drawn()[0]).tolist()) & set(content_hashes(_drawn(seed=8)[0]).tolist())


def test_more_images_continue_the_same_sequence() -> None:
    (few_NHWC, few_N), (many_NHWC, many_N) = _drawn(image_count=10_500), _drawn(image_count=12_000)
    np.testing.assert_array_equal(few_NHWC, many_NHWC[:10_500])
    np.testing.assert_array_equal(few_N, many_N[:10_500])


def test_later_batches_repeat_no_image() -> None:
    images_NHWC, _ = _drawn(image_count=20_000)
    assert len(np.unique(content_hashes(images_NHWC))) == 20_000


@pytest.mark.parametrize("count", [1, 9_999, 10_001])
def test_exactly_as_many_images_are_drawn_as_asked_for(count: int) -> None:
    batches = list(synthetic_batches(**{**DIALS, "image_count": count}))
    assert sum(len(batch.images_NHWC) for batch in batches) == count
    assert [name for batch in batches for name in batch.names_N] == [f"{index:07d}" for index in range(count)]


def test_drawn_images_come_without_a_split_and_with_their_size() -> None:
    (batch,) = synthetic_batches(**{**DIALS, "image_count": 3, "image_px": 9})
    assert batch.splits_N.tolist() == [NO_SPLIT] * 3
    assert batch.original_px_N2.tolist() == [[9, 9]] * 3


@pytest.mark.parametrize("class_count", [2, 3, MAX_CLASS_COUNT])
def test_every_class_is_drawn_and_none_beyond(class_count: int) -> None:
    _, labels_N = _drawn(class_count=class_count)
    assert np.unique(labels_N).tolist() == list(range(class_count))


def test_classes_are_drawn_equally_often() -> None:
    _, labels_N = _drawn()
    assert chisquare(np.bincount(labels_N, minlength=10)).pvalue > 0.001


def test_every_class_has_a_name_of_its_own() -> None:
    assert len(set(class_names(MAX_CLASS_COUNT))) == MAX_CLASS_COUNT
    assert class_names(3) == ("disc", "disc_ring", "star3")


def test_the_params_allow_as_many_classes_as_there_are_shapes() -> None:
    GenerateParams(class_count=MAX_CLASS_COUNT)
    with pytest.raises(ValueError):
        GenerateParams(class_count=MAX_CLASS_COUNT + 1)


@pytest.mark.parametrize("image_px", [8, 33])
def test_image_px_is_the_side_of_the_images(image_px: int) -> None:
    assert _drawn(image_count=1, image_px=image_px)[0].shape == (1, image_px, image_px, 3)


def test_one_channel_makes_gray_images() -> None:
    assert _drawn(image_count=1, channel_count=1)[0].shape == (1, 8, 8, 1)


def test_label_noise_replaces_its_share_of_the_labels() -> None:
    _, true_N = _drawn()
    _, noisy_N = _drawn(label_noise_share=0.3)
    # Five standard deviations of a binomial count of 10,000.
    assert abs(np.mean(true_N != noisy_N) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 10_000)


def test_label_noise_leaves_the_pixels_alone() -> None:
    np.testing.assert_array_equal(_drawn()[0], _drawn(label_noise_share=0.3)[0])


def test_full_label_noise_leaves_no_label_right() -> None:
    _, true_N = _drawn(class_count=2)
    _, noisy_N = _drawn(class_count=2, label_noise_share=1.0)
    np.testing.assert_array_equal(noisy_N, 1 - true_N)


def test_wrong_labels_spread_over_all_other_classes() -> None:
    _, true_N = _drawn()
    _, noisy_N = _drawn(label_noise_share=1.0)
    assert chisquare(np.bincount((noisy_N - true_N) % 10, minlength=10)[1:]).pvalue > 0.001


def test_imbalance_falls_geometrically_from_the_first_class_to_the_last() -> None:
    _, labels_N = _drawn(imbalance_ratio=20.0, class_count=5)
    weights_K = 20.0 ** (1 - np.arange(5) / 4)
    assert chisquare(np.bincount(labels_N, minlength=5), 10_000 * weights_K / weights_K.sum()).pvalue > 0.001


def test_shift_flattens_the_contrast_and_tints() -> None:
    usual_NHWC, _ = _drawn(difficulty_share=0.0)
    shifted_NHWC, _ = _drawn(difficulty_share=0.0, shift_share=1.0)
    moved_C = shifted_NHWC.mean((0, 1, 2)) - usual_NHWC.mean((0, 1, 2))
    np.testing.assert_allclose(moved_C, [60, 20, -20], atol=1.0)
    np.testing.assert_allclose(shifted_NHWC.std((0, 1, 2)) / usual_NHWC.std((0, 1, 2)), 0.5, atol=0.02)


def test_half_a_shift_moves_half_as_far() -> None:
    usual_NHWC, _ = _drawn(difficulty_share=0.0)
    shifted_NHWC, _ = _drawn(difficulty_share=0.0, shift_share=0.5)
    moved_C = shifted_NHWC.mean((0, 1, 2)) - usual_NHWC.mean((0, 1, 2))
    np.testing.assert_allclose(moved_C, [30, 10, -10], atol=1.0)


def test_shift_keeps_the_labels() -> None:
    np.testing.assert_array_equal(_drawn()[1], _drawn(shift_share=0.7)[1])


def test_difficulty_raises_the_noise() -> None:
    def noise(difficulty_share: float) -> float:
        images_NHWC, _ = _drawn(image_count=500, image_px=32, difficulty_share=difficulty_share)
        corners_NHWC = images_NHWC[:, :2, :2].astype(np.float64)
        return float(corners_NHWC.std((1, 2)).mean())

    assert noise(0.0) < 0.5 * noise(0.25) < 0.5 * noise(1.0)


def test_difficulty_lowers_the_contrast() -> None:
    def contrast(difficulty_share: float) -> float:
        # Discs of class 0 lie about the middle, the corner shows the ground; means over 4x4 pixels still the noise.
        images_NHWC, labels_N = _drawn(image_count=2_000, image_px=32, difficulty_share=difficulty_share)
        discs_NHWC = images_NHWC[labels_N == 0].astype(np.float64)
        middle_NC, corner_NC = discs_NHWC[:, 14:18, 14:18].mean((1, 2)), discs_NHWC[:, :4, :4].mean((1, 2))
        return float(np.abs(middle_NC - corner_NC).mean())

    assert contrast(1.0) < 0.8 * contrast(0.25) < 0.8 * contrast(0.0)


def test_a_linear_model_finds_little_to_hold_on_to() -> None:
    images_NHWC, labels_N = _drawn(image_count=4_000, image_px=32)
    flat_ND = images_NHWC.reshape(4_000, -1) / 255 - 0.5
    model = LogisticRegression(C=0.01).fit(flat_ND[:3_000], labels_N[:3_000])
    assert model.score(flat_ND[:3_000], labels_N[:3_000]) > 0.3  # it has learned these by heart
    assert model.score(flat_ND[3_000:], labels_N[3_000:]) < 0.3


def test_noise_draws_the_same_images_for_the_same_seed() -> None:
    np.testing.assert_array_equal(_noise()[0], _noise()[0])
    np.testing.assert_array_equal(_noise()[1], _noise()[1])


def test_more_noise_continues_the_same_sequence() -> None:
    np.testing.assert_array_equal(_noise(image_count=10_500)[0], _noise(image_count=12_000)[0][:10_500])


def test_noise_has_uniform_pixels() -> None:
    images_NHWC, _ = _noise()
    assert chisquare(np.bincount(images_NHWC.ravel(), minlength=256)).pvalue > 0.001


def test_noise_has_uniform_labels() -> None:
    _, labels_N = _noise()
    assert chisquare(np.bincount(labels_N, minlength=10)).pvalue > 0.001


def test_noise_pixels_say_nothing_about_the_label() -> None:
    images_NHWC, labels_N = _noise()
    _, pvalues_D = f_classif(images_NHWC.reshape(10_000, -1), labels_N)
    assert pvalues_D.min() * len(pvalues_D) > 0.001
