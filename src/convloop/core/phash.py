"""Perceptual hashes: 64 bits that stay nearly the same when a picture is saved again, resized or made brighter."""

import numpy as np
from numpy.typing import NDArray

from convloop.core.luma import luma

_SIDE = 8  # lowest frequencies kept in each direction: 8 x 8 = 64 bits
_CHUNK_PIXEL_COUNT = 300_000  # fits the cache of a core: larger ones wait for memory
_STEP = 0.5  # coefficients are rounded to this, so that a blank image has the hash 0 and not rounding noise


def perceptual_hashes(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash what each image looks like: which of its 64 lowest cosine frequencies lie above their median.

    Images of any one size; the number of differing bits (Hamming distance) tells how much two of them differ.
    Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010 (pHash).
    """
    count, height_px, width_px, _ = images_NHWC.shape
    rows_UH, columns_WU = _cosines(height_px), _cosines(width_px).T
    hashes_N = np.empty(count, np.uint64)
    step = max(1, _CHUNK_PIXEL_COUNT // (height_px * width_px))
    for start in range(0, count, step):
        gray_NHW = luma(images_NHWC[start : start + step])
        frequencies_NF = np.round(rows_UH @ gray_NHW @ columns_WU / _STEP).reshape(-1, _SIDE * _SIDE)
        above_NF = frequencies_NF > np.median(frequencies_NF, axis=1, keepdims=True)
        hashes_N[start : start + step] = np.packbits(above_NF, axis=1).view(">u8").ravel()
    return hashes_N


def _cosines(side_px: int) -> NDArray[np.float32]:
    """Give the rows of the orthonormal DCT-II that belong to the lowest frequencies."""
    place, frequency = np.arange(side_px) + 0.5, np.arange(_SIDE)[:, None]
    rows = np.sqrt(2 / side_px) * np.cos(np.pi / side_px * place * frequency)
    rows[0] /= np.sqrt(2)
    return np.asarray(rows, np.float32)
