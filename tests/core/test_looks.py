"""What images look like, in three numbers."""

import numpy as np
import pytest

from convloop.core.looks import measure_looks
from convloop.core.luma import luma

from .pictures import images_of, random_pixels


@pytest.mark.parametrize("channel_count", [1, 3])
def test_looks_are_those_of_a_slow_version(channel_count: int) -> None:
    pixels_NHWC = random_pixels(7, side_px=9, channel_count=channel_count)
    looks_N3 = measure_looks(images_of(pixels_NHWC, [0] * 7, ("a",), shard_sizes=(3, 2)))
    for index, gray_HW in enumerate(luma(pixels_NHWC).astype(float)):
        down = [abs(gray_HW[y + 1, x] - gray_HW[y, x]) for y in range(8) for x in range(9)]
        across = [abs(gray_HW[y, x + 1] - gray_HW[y, x]) for y in range(9) for x in range(8)]
        expected = [gray_HW.mean(), gray_HW.std(), (np.mean(down) + np.mean(across)) / 2]
        np.testing.assert_allclose(looks_N3[index], expected, rtol=1e-4)
