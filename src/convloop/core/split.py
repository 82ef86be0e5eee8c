"""Which images train, which choose, which judge; an image is on the side that its own content names, or on none.

Nothing is remembered and nothing is ever moved from one side to another. Where two images are near-twins and their
contents name different sides, the later one is left out: docs/decisions/0005.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS

TRAIN, VAL, TEST = range(len(SPLITS))
_KEEPS_FIRST = np.array([2, 1, 0])  # by split: test before val before train


def split_by_content(
    content_N: NDArray[np.void],
    given_N: NDArray[np.int8],
    arrivals_N: NDArray[np.int32],
    *,
    val_share: float,
    test_share: float,
) -> NDArray[np.int8]:
    """Assign each image to train, val or test by its own content hash, respecting given splits.

    Twins fall together, and an image never changes sides as data come or go. Where the source (what arrived first)
    gives a test set, no other image joins it unless it is given to it; where the source gives no val set, val is drawn
    from what is called train.

    Args:
        content_N: 32-byte hashes, as `images.content_hashes` makes them.
        given_N: an index into SPLITS, or NO_SPLIT.

    Returns:
        An index into SPLITS for each image.
    """
    position_N = _position(content_N)
    splits_N = np.full(len(content_N), TRAIN, np.int8)
    of_source_N = given_N[arrivals_N == 0]
    has_test, has_val = bool((of_source_N == TEST).any()), bool((of_source_N == VAL).any())
    free_N = given_N == NO_SPLIT
    if not has_test:
        splits_N[free_N & (position_N < test_share)] = TEST
    if not has_val:
        may_choose_N = (free_N | (given_N == TRAIN)) & (splits_N != TEST)
        splits_N[may_choose_N & (position_N >= test_share) & (position_N < test_share + val_share)] = VAL
    splits_N[given_N == TEST] = TEST
    splits_N[given_N == VAL] = VAL
    return splits_N


def leave_out_near_twins(
    splits_N: NDArray[np.int8],
    given_N: NDArray[np.int8],
    arrivals_N: NDArray[np.int32],
    content_N: NDArray[np.void],
    pairs_P2: NDArray[np.int64],
) -> NDArray[np.int8]:
    """Set the later image of each pair that lies in two splits to NO_SPLIT, with all its copies.

    The earlier one is that which arrived first; of those that came together, one whose split was given, then the one
    in test, then in val. So what arrives never changes what was there, and what leaves only brings others back. Two
    images whose splits were both given stay as given.

    Args:
        pairs_P2: indices of near-twins, of each content the first image, as `twins.find_near_twins` gives them.
    """
    torn_P = splits_N[pairs_P2[:, 0]] != splits_N[pairs_P2[:, 1]]
    given_P2 = given_N[pairs_P2]
    given_apart_P = (given_P2 != NO_SPLIT).all(1) & (given_P2[:, 0] != given_P2[:, 1])
    torn_P2 = pairs_P2[torn_P & ~given_apart_P]
    place_N = (arrivals_N.astype(np.int64) * 2 + (given_N == NO_SPLIT)) * len(SPLITS) + _KEEPS_FIRST[splits_N]
    later_P = np.where(place_N[torn_P2[:, 0]] > place_N[torn_P2[:, 1]], torn_P2[:, 0], torn_P2[:, 1])
    _, content_index_N = np.unique(content_N, return_inverse=True)
    left_out = splits_N.copy()
    left_out[np.isin(content_index_N, content_index_N[later_P])] = NO_SPLIT
    return left_out


@dataclass(frozen=True)
class Version:
    """The test images up to some arrival; `version` counts from 1 those arrivals that brought any."""

    version: int
    sha256: str
    image_count: int
    arrival: int


def versions_of_test(
    splits_N: NDArray[np.int8], arrivals_N: NDArray[np.int32], content_N: NDArray[np.void]
) -> tuple[Version, ...]:
    """List the versions that the test set has had, the newest last; equal contents have equal hashes."""
    test_M = np.flatnonzero(splits_N == TEST)
    versions = []
    for version, arrival in enumerate(np.unique(arrivals_N[test_M]), start=1):
        content_T = content_N[test_M[arrivals_N[test_M] <= arrival]]
        sha256 = hashlib.sha256(np.sort(content_T).tobytes()).hexdigest()
        versions.append(Version(version, sha256, len(content_T), int(arrival)))
    return tuple(versions)


def freeze_test_set(splits_N: NDArray[np.int8], arrivals_N: NDArray[np.int32], frozen: Version) -> NDArray[np.int8]:
    """Leave out the test images that arrived after a version; they wait for the next one."""
    return np.where((splits_N == TEST) & (arrivals_N > frozen.arrival), np.int8(NO_SPLIT), splits_N)


def _position(content_N: NDArray[np.void]) -> NDArray[np.float64]:
    """Map each hash to a place in [0, 1) by its first eight bytes, uniform since the hash is."""
    first_N = np.ascontiguousarray(content_N).view(np.uint8).reshape(-1, 32)[:, :8]
    return np.ascontiguousarray(first_N).view(">u8").ravel().astype(np.float64) / 2.0**64
