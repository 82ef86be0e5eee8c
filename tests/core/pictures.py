"""Small random pictures for the tests of core."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, Batch, Images, content_hashes
from convloop.core.phash import perceptual_hashes


def random_pixels(count: int, *, side_px: int = 8, channel_count: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Draw uint8 pixels NHWC."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, side_px, side_px, channel_count), dtype=np.uint8)


def batch_of(pixels_NHWC: NDArray[np.uint8], labels: Sequence[int], *, splits: Sequence[int] | None = None) -> Batch:
    """Make a batch whose names count from 0."""
    count = len(pixels_NHWC)
    return Batch(
        pixels_NHWC,
        np.array(labels, np.int64),
        np.full(count, NO_SPLIT, np.int8) if splits is None else np.array(splits, np.int8),
        np.tile(np.array(pixels_NHWC.shape[1:3], np.int32), (count, 1)),
        np.array([f"{index:05d}" for index in range(count)]),
    )


def images_of(
    pixels_NHWC: NDArray[np.uint8], labels: Sequence[int], classes: tuple[str, ...], *, shard_sizes: Sequence[int] = ()
) -> Images:
    """Make an opened set without files, cut into shards of the given sizes and a last one of the rest."""
    batch = batch_of(pixels_NHWC, labels)
    shards = tuple(np.split(pixels_NHWC, np.cumsum(shard_sizes, dtype=np.int64)))
    return Images(
        classes,
        shards,
        batch.labels_N,
        content_hashes(pixels_NHWC),
        batch.splits_N,
        batch.names_N,
        perceptual_hashes(pixels_NHWC),
        batch.original_px_N2,
        np.zeros(len(pixels_NHWC), np.int32),
    )
