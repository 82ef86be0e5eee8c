"""Cut a stream of images into shards whose borders the images' own names decide, so that growing data leaves most alone.

An image that is added, taken away or replaced changes the shard that it falls into and no other: a shard ends after an
image whose name hashes below a limit, whatever lies around it. Only where no such name comes for as many images as a
shard may hold is it cut by count, and then the following ones up to the next such name change as well.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convloop.core.images import SHARD_IMAGE_COUNT, Batch, manifest_text, mode_codes, slices_of, write_shard
from convloop.errors import DataError

SHARD_BYTES = 128 * 2**20  # of pixels: what is in memory at once must not grow with the images' size
_MEAN_SHARE = 0.25  # of the longest: one border in 55 (exp -4) is then missed


def write_shards(folder: Path, batches: Iterable[Batch], classes: tuple[str, ...], facts: dict[str, Any]) -> int:
    """Write batches of any length as shards and, last, their manifest; return the number of images.

    Args:
        facts: what else the manifest should say, such as the source.
    """
    shards: list[dict[str, Any]] = []
    for index, pieces in enumerate(cut_shards(batches)):
        shards.append(write_shard(folder, f"shard-{index:05d}", *pieces))
    if not shards:
        raise DataError("The source holds no images. Point generate.path at some, or raise generate.image_count.")
    (folder / "manifest.json").write_text(manifest_text(classes, shards, facts), encoding="utf-8")
    return sum(int(shard["image_count"]) for shard in shards)


def cut_shards(batches: Iterable[Batch], longest_count: int = SHARD_IMAGE_COUNT) -> Iterator[list[Batch]]:
    """Cut batches of any length into shards, each in pieces, which are views: nothing is copied.

    Args:
        longest_count: images of a shard at most, fewer where their pixels pass SHARD_BYTES; a quarter on the mean.
    """
    waiting: list[Batch] = []
    count = 0
    for batch in batches:
        image_bytes = int(np.prod(batch.images_NHWC.shape[1:]))
        most_count = min(longest_count, max(1, SHARD_BYTES // image_bytes))
        ends = np.flatnonzero(_ends_shard(batch.names_N, _MEAN_SHARE * most_count)) + 1
        start = 0
        for end in [*ends.tolist(), len(batch.labels_N)]:
            while end - start + count >= most_count:
                stop = start + most_count - count
                yield [*waiting, _cut(batch, start, stop)]
                waiting, count, start = [], 0, stop
            if start < end:
                waiting.append(_cut(batch, start, end))
                count += end - start
                start = end
            if count and end in ends:
                yield waiting
                waiting, count = [], 0
    if count:
        yield waiting


def _ends_shard(names_N: NDArray[np.str_], mean_count: float) -> NDArray[np.bool_]:
    """Tell which names end a shard: one in `mean_count`, by their own hash."""
    limit = int(2**64 / max(1.0, mean_count))
    hashes = (hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names_N.tolist())
    return np.fromiter((int.from_bytes(digest) < limit for digest in hashes), bool, len(names_N))


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    part = slice(start, stop)
    return Batch(
        batch.images_NHWC[part],
        batch.labels_N[part],
        batch.splits_N[part],
        batch.original_px_N2[part],
        batch.names_N[part],
        slices_of(batch)[part],
        mode_codes(batch)[part],
    )
