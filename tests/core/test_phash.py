"""Perceptual hashes stay near for what looks the same and fall apart for what does not."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from convloop.core.phash import perceptual_hashes

from .pictures import random_pixels


def _photo(seed: int, side_px: int = 48) -> NDArray[np.uint8]:
    """Draw something smooth, as photographs are: noise made larger."""
    small = random_pixels(1, side_px=12, seed=seed)[0]
    return np.asarray(Image.fromarray(small).resize((side_px, side_px), Image.Resampling.BICUBIC))


def _distance(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(perceptual_hashes(one[None])[0] ^ perceptual_hashes(other[None])[0]))


@pytest.mark.parametrize(("height_px", "width_px", "channel_count"), [(32, 32, 1), (17, 40, 3), (8, 8, 3)])
def test_hash_is_the_sign_of_the_low_frequencies_that_scipy_gives(
    height_px: int, width_px: int, channel_count: int
) -> None:
    images_NHWC = np.random.default_rng(0).integers(0, 256, (5, height_px, width_px, channel_count), np.uint8)
    for image_HWC, received in zip(images_NHWC, perceptual_hashes(images_NHWC), strict=True):
        gray = image_HWC.astype(float) @ ([1.0] if channel_count == 1 else [0.299, 0.587, 0.114])
        low = dctn(gray, norm="ortho")[:8, :8].ravel()
        expected = int("".join("1" if above else "0" for above in low > np.median(low)), 2)
        # Frequencies are rounded to halves first, so one that lies at the median may fall on either side.
        assert (int(received) ^ expected).bit_count() <= 2


def test_a_photo_saved_as_jpeg_keeps_its_hash_nearly() -> None:
    for seed in range(20):
        stream = io.BytesIO()
        Image.fromarray(_photo(seed)).save(stream, "JPEG", quality=60)
        assert _distance(_photo(seed), np.asarray(Image.open(stream))) <= 6


def test_a_photo_made_smaller_keeps_its_hash_nearly() -> None:
    for seed in range(20):
        smaller = np.asarray(Image.fromarray(_photo(seed)).resize((32, 32), Image.Resampling.BOX))
        assert _distance(_photo(seed), smaller) <= 8


def test_different_photos_differ_in_many_bits() -> None:
    distances = [_distance(_photo(seed), _photo(seed + 100)) for seed in range(20)]
    assert min(distances) > 12


@pytest.mark.parametrize("value", [0, 1, 77, 255])
def test_blank_images_have_one_hash_apart_from_the_mean(value: int) -> None:
    blank_NHWC = np.full((1, 32, 32, 3), value, np.uint8)
    assert perceptual_hashes(blank_NHWC)[0] in (0, 2**63)


def test_the_hash_of_an_image_does_not_depend_on_its_neighbours() -> None:
    images_NHWC = random_pixels(3000, side_px=64, channel_count=1)
    alone = [perceptual_hashes(images_NHWC[index : index + 1])[0] for index in (0, 1500, 2999)]
    assert perceptual_hashes(images_NHWC)[[0, 1500, 2999]].tolist() == alone
