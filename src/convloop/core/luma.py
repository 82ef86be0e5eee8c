"""Brightness of pixels, and pictures made smaller by averaging."""

import numpy as np
from numpy.typing import NDArray

_RGB_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, which Pillow's mode L uses too


def luma(images_NHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn gray or RGB pixels into brightness NHW, 0 to 255."""
    if images_NHWC.shape[-1] == 1:
        return images_NHWC[..., 0].astype(np.float32)
    return images_NHWC.astype(np.float32) @ _RGB_WEIGHTS


def shrunk(images_NHWC: NDArray[np.uint8], side_px: int) -> NDArray[np.float32]:
    """Average boxes of pixels until no side is longer than `side_px`; smaller images keep their size."""
    pixels = images_NHWC.astype(np.float32)
    for axis in (1, 2):
        length = pixels.shape[axis]
        if length > side_px:
            edges = np.linspace(0, length, side_px + 1).astype(np.int64)
            sums = np.add.reduceat(pixels, edges[:-1], axis=axis)
            shape = [1, 1, 1, 1]
            shape[axis] = side_px
            pixels = np.asarray(sums / np.diff(edges).reshape(shape), np.float32)
    return pixels
