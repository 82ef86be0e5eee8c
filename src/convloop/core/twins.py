"""Pairs of images that show the same picture: identical pixels, or nearly so (saved again, resized, brightened)."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import Images
from convloop.core.luma import shrunk

MIN_CORRELATION = 0.98
_MAX_DISTANCE_BITS = 7  # beyond, a perceptual hash finds no more true pairs, and the search no more bands
_MAX_FALSE_SHARE = 0.001
_BANDS = 4
_BAND_BITS = 64 // _BANDS
_COMPARED_SIDE_PX = 32
_SAMPLED_PAIR_COUNT = 2_000_000
_CONFIRMED_PAIR_COUNT = 2_000  # of the sampled matches
_MAX_COMPARISON_COUNT = 4_000_000_000  # of hashes: a minute or two
_MAX_CANDIDATE_COUNT = 2_000_000  # of images: a few minutes
_CHUNK_COUNT = 4_000_000


@dataclass(frozen=True)
class NearTwins:
    """Pairs of different pixels that show the same picture; `pairs_P2` indexes the images, the smaller index first.

    Only one image of each content is named. `distance_bits` is the largest distance of hashes that was searched, None
    when not even equal hashes were, for the reason in `unsearched`; `false_share` of random pairs lie within it and yet
    do not show the same picture.
    """

    pairs_P2: NDArray[np.int64]
    correlation_P: NDArray[np.float32]
    distance_bits: int | None
    false_share: float
    unsearched: str = ""


def find_near_twins(images: Images) -> NearTwins:
    """Find near-twins by perceptual hash, within a distance calibrated on the set itself, confirmed by their pixels.

    A fixed distance would call clean drawings alike that are not, so the largest one is taken at which fewer than
    0.1 % of random pairs (in small sets, one for two images) match without being the same picture.
    """
    _, first_M = np.unique(images.content_N, return_index=True)
    first_M = np.sort(first_M)
    hashes_M = images.phash_N[first_M]
    false_shares, match_shares = _random_shares(images, first_M)
    pair_count = len(first_M) * (len(first_M) - 1) // 2
    unsearched = ""
    for distance in reversed(range(_MAX_DISTANCE_BITS + 1)):
        match_count = match_shares[distance] * pair_count
        if false_shares[distance] >= max(_MAX_FALSE_SHARE, 1 / len(first_M)):
            unsearched = (
                f"{false_shares[distance]:.1%} of random pairs have equal perceptual hashes and differ all the same"
            )
            continue
        if match_count > _MAX_CANDIDATE_COUNT:
            unsearched = (
                f"about {match_count:,.0f} pairs have equal hashes, of which {_MAX_CANDIDATE_COUNT:,} can be compared"
            )
            continue
        needed_count = comparison_count(hashes_M, distance)
        if needed_count > _MAX_COMPARISON_COUNT:
            unsearched = f"{needed_count:,} hashes would have to be compared, of which {_MAX_COMPARISON_COUNT:,} can be"
            continue
        pairs_P2 = pairs_within(hashes_M, distance, 2 * _MAX_CANDIDATE_COUNT)
        if pairs_P2 is None:
            unsearched = f"more than {2 * _MAX_CANDIDATE_COUNT:,} pairs have equal hashes"
            continue
        pairs_P2 = first_M[pairs_P2]
        correlation_P = correlations(images, pairs_P2)
        confirmed_P = correlation_P > MIN_CORRELATION
        return NearTwins(pairs_P2[confirmed_P], correlation_P[confirmed_P], distance, false_shares[distance])
    return NearTwins(np.empty((0, 2), np.int64), np.empty(0, np.float32), None, false_shares[0], unsearched)


def pairs_within(hashes_N: NDArray[np.uint64], distance_bits: int, max_count: int) -> NDArray[np.int64] | None:
    """List all pairs of hashes that differ in at most so many bits (up to 7), sorted; None if they are too many.

    Two such hashes have one of four bands of 16 bits in which they differ by at most one bit, so only hashes with
    such a band are compared. Source: M. Norouzi et al., Fast Search in Hamming Space with Multi-Index Hashing, 2012.
    """
    found: list[NDArray[np.int64]] = []
    for band in range(_BANDS):
        for left_P, right_P in _alike_in_band(hashes_N, band, distance_bits >= _BANDS):
            distance_P = np.bitwise_count(hashes_N[left_P] ^ hashes_N[right_P])
            near_P = distance_P <= distance_bits
            found.append(np.stack([left_P[near_P], right_P[near_P]], 1))
            if sum(map(len, found)) > _BANDS * max_count:
                return None
    pairs_P2 = np.unique(np.sort(np.concatenate(found), axis=1), axis=0) if found else np.empty((0, 2), np.int64)
    return None if len(pairs_P2) > max_count else pairs_P2


def comparison_count(hashes_N: NDArray[np.uint64], distance_bits: int) -> int:
    """Count the hashes that `pairs_within` would compare."""
    total = 0
    for band in range(_BANDS):
        counts_V = np.bincount(_band(hashes_N, band), minlength=1 << _BAND_BITS)
        total += int((counts_V * (counts_V - 1)).sum()) // 2
        if distance_bits >= _BANDS:
            values_V = np.arange(1 << _BAND_BITS)
            total += sum(int((counts_V * counts_V[values_V ^ (1 << bit)]).sum()) // 2 for bit in range(_BAND_BITS))
    return total


def correlations(images: Images, pairs_P2: NDArray[np.int64]) -> NDArray[np.float32]:
    """Correlate the pixels of each pair, shrunk to 32 px; a blank image correlates with nothing."""
    correlation_P = np.empty(len(pairs_P2), np.float32)
    height_px, width_px, channel_count = images.shape_HWC
    step = max(1, _CHUNK_COUNT // (height_px * width_px * channel_count))
    for start in range(0, len(pairs_P2), step):
        part_P2 = pairs_P2[start : start + step]
        used, place = np.unique(part_P2, return_inverse=True)
        pixels_UD = shrunk(images.take(used), _COMPARED_SIDE_PX).reshape(len(used), -1)
        pixels_UD -= pixels_UD.mean(1, keepdims=True)
        pixels_UD /= np.maximum(np.linalg.norm(pixels_UD, axis=1, keepdims=True), 1e-6)
        left_P, right_P = place.reshape(part_P2.shape).T
        correlation_P[start : start + step] = np.einsum("pd,pd->p", pixels_UD[left_P], pixels_UD[right_P])
    return correlation_P


def _random_shares(images: Images, first_M: NDArray[np.int64]) -> tuple[list[float], list[float]]:
    """Estimate from random pairs, for each distance, the share that matches falsely and the share that matches."""
    distances = range(_MAX_DISTANCE_BITS + 1)
    if len(first_M) < 2:
        return [0.0 for _ in distances], [0.0 for _ in distances]
    left_P, right_P = np.random.default_rng(0).integers(0, len(first_M), (2, _SAMPLED_PAIR_COUNT))
    left_P, right_P = first_M[left_P[left_P != right_P]], first_M[right_P[left_P != right_P]]
    distance_P = np.bitwise_count(images.phash_N[left_P] ^ images.phash_N[right_P])
    match_P = np.flatnonzero(distance_P <= _MAX_DISTANCE_BITS)
    checked_P = match_P[:_CONFIRMED_PAIR_COUNT]
    false_P = correlations(images, np.stack([left_P[checked_P], right_P[checked_P]], 1)) <= MIN_CORRELATION
    weight = len(match_P) / max(1, len(checked_P)) / len(distance_P)
    false_shares = [float((false_P & (distance_P[checked_P] <= distance)).sum() * weight) for distance in distances]
    return false_shares, [float((distance_P <= distance).mean()) for distance in distances]


def _band(hashes_N: NDArray[np.uint64], band: int) -> NDArray[np.int64]:
    return ((hashes_N >> np.uint64(band * _BAND_BITS)) & np.uint64((1 << _BAND_BITS) - 1)).astype(np.int64)


def _alike_in_band(
    hashes_N: NDArray[np.uint64], band: int, one_bit_off: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the pairs whose band is equal, or also those whose band differs in one bit, in chunks."""
    band_N = _band(hashes_N, band)
    order_N = np.argsort(band_N, kind="stable")
    sorted_N = band_N[order_N]
    start_V = np.searchsorted(sorted_N, np.arange((1 << _BAND_BITS) + 1))
    place_N = np.arange(len(order_N))
    # Equal band: each with those after it in the same bucket. One bit off: each with the bucket above it.
    ranges = [(place_N + 1, start_V[sorted_N + 1])]
    for bit in range(_BAND_BITS if one_bit_off else 0):
        lower_M = np.flatnonzero(sorted_N & (1 << bit) == 0)
        other_M = sorted_N[lower_M] | (1 << bit)
        begin_N, end_N = np.zeros_like(place_N), np.zeros_like(place_N)
        begin_N[lower_M], end_N[lower_M] = start_V[other_M], start_V[other_M + 1]
        ranges.append((begin_N, end_N))
    for begin_N, end_N in ranges:
        length_N = end_N - begin_N
        cumulated_N = np.cumsum(length_N)
        at = 0
        while at < len(length_N):
            done = int(cumulated_N[at - 1]) if at else 0
            stop = max(at + 1, int(np.searchsorted(cumulated_N, done + _CHUNK_COUNT, side="right")))
            length = length_N[at:stop]
            total = int(length.sum())
            if total:
                left = np.repeat(place_N[at:stop], length)
                first = np.repeat(begin_N[at:stop] - (cumulated_N[at:stop] - length - done), length)
                yield order_N[left], order_N[first + np.arange(total)]
            at = stop
