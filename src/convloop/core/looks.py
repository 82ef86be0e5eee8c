"""How bright, how contrasty and how sharp images are: what the gate checks and drift is measured on."""

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import Images
from convloop.core.luma import luma

LOOKS = ("brightness", "contrast", "gradient")
_CHUNK_PIXEL_COUNT = 4_000_000


def measure_looks(images: Images) -> NDArray[np.float32]:
    """Measure each image (N x LOOKS): mean and standard deviation of its brightness, mean step to the next pixel."""
    looks_N3 = np.empty((len(images), len(LOOKS)), np.float32)
    start = 0
    for shard_NHWC in images.shards:
        step = max(1, _CHUNK_PIXEL_COUNT // int(np.prod(shard_NHWC.shape[1:3])))
        for first in range(0, len(shard_NHWC), step):
            gray_NHW = luma(shard_NHWC[first : first + step])
            part_N3 = looks_N3[start + first : start + first + len(gray_NHW)]
            part_N3[:, 0] = gray_NHW.mean((1, 2))
            part_N3[:, 1] = gray_NHW.std((1, 2))
            down, across = np.diff(gray_NHW, axis=1), np.diff(gray_NHW, axis=2)
            part_N3[:, 2] = (np.abs(down).mean((1, 2)) + np.abs(across).mean((1, 2))) / 2
        start += len(shard_NHWC)
    return looks_N3
