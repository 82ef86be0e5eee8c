"""Brightness and smaller pictures."""

import numpy as np
import pytest
from PIL import Image

from convloop.core.luma import luma, shrunk

from .pictures import random_pixels


def test_brightness_of_colours_is_that_of_pillow() -> None:
    pixels_NHWC = random_pixels(3)
    pillow_NHW = np.stack([np.asarray(Image.fromarray(image).convert("L"), np.float32) for image in pixels_NHWC])
    np.testing.assert_allclose(luma(pixels_NHWC), pillow_NHW, atol=1)


def test_brightness_of_gray_is_the_pixel() -> None:
    pixels_NHWC = random_pixels(3, channel_count=1)
    np.testing.assert_array_equal(luma(pixels_NHWC), pixels_NHWC[..., 0])


def test_small_images_keep_their_pixels() -> None:
    pixels_NHWC = random_pixels(2, side_px=8)
    np.testing.assert_array_equal(shrunk(pixels_NHWC, 8), pixels_NHWC)


@pytest.mark.parametrize("factor", [2, 5])
def test_shrinking_averages_boxes(factor: int) -> None:
    pixels_NHWC = random_pixels(2, side_px=8 * factor)
    expected = pixels_NHWC.reshape(2, 8, factor, 8, factor, 3).mean((2, 4))
    np.testing.assert_allclose(shrunk(pixels_NHWC, 8), expected, rtol=1e-6)


def test_sides_that_do_not_divide_are_shrunk_too() -> None:
    assert shrunk(random_pixels(2, side_px=37), 32).shape == (2, 32, 32, 3)
    np.testing.assert_allclose(shrunk(np.full((1, 37, 50, 3), 9, np.uint8), 32), 9)
