"""Which images train, which choose, which judge."""

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS

TRAIN, VAL, TEST = range(len(SPLITS))


def split_by_content(
    content_N: NDArray[np.void], given_N: NDArray[np.int8], *, val_share: float, test_share: float
) -> NDArray[np.int8]:
    """Assign each image to train, val or test by its own content hash, respecting given splits.

    Twins fall together, and an image never changes sides as data come or go. Where the source gives a test set, no
    other image joins it; where it gives no val set, val is drawn from what it calls train.

    Args:
        content_N: 32-byte hashes, as `images.content_hashes` makes them.
        given_N: an index into SPLITS, or NO_SPLIT.

    Returns:
        An index into SPLITS for each image.
    """
    position_N = _position(content_N)
    splits_N = np.full(len(content_N), TRAIN, np.int8)
    has_test, has_val = bool((given_N == TEST).any()), bool((given_N == VAL).any())
    free_N = given_N == NO_SPLIT
    if not has_test:
        splits_N[free_N & (position_N < test_share)] = TEST
    if not has_val:
        may_choose_N = (free_N | (given_N == TRAIN)) & (splits_N != TEST)
        splits_N[may_choose_N & (position_N >= test_share) & (position_N < test_share + val_share)] = VAL
    splits_N[given_N == TEST] = TEST
    splits_N[given_N == VAL] = VAL
    return splits_N


def _position(content_N: NDArray[np.void]) -> NDArray[np.float64]:
    """Map each hash to a place in [0, 1) by its first eight bytes, uniform since the hash is."""
    first_N = np.ascontiguousarray(content_N).view(np.uint8).reshape(-1, 32)[:, :8]
    return np.ascontiguousarray(first_N).view(">u8").ravel().astype(np.float64) / 2.0**64
