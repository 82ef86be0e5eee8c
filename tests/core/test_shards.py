"""Where a stream of images is cut into shards: by the images' own names, so that growing data leaves most as they are."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convloop.core.images import Batch, content_hashes, open_images, write_shard
from convloop.core.shards import cut_shards, write_shards
from convloop.errors import DataError

from .pictures import batch_of, random_pixels

CLASSES = ("cat", "dog", "owl")
LONGEST = 8  # so that every second name ends a shard
NAMES = st.lists(st.integers(0, 10**6 - 1), min_size=1, max_size=80, unique=True)


def _batch(names: list[int]) -> Batch:
    """Make one image of one pixel for each name; the pixel follows from the name."""
    pixels_NHWC = np.array([name % 251 for name in names], np.uint8).reshape(-1, 1, 1, 1)
    return replace(batch_of(pixels_NHWC, [0] * len(names)), names_N=np.array([f"{name:07d}.png" for name in names]))


def _cut(names: list[int]) -> list[list[int]]:
    shards = cut_shards([_batch(names)], LONGEST)
    return [[int(name[:7]) for piece in shard for name in piece.names_N.tolist()] for shard in shards]


def _runs(names: list[int]) -> list[list[int]]:
    """Cut behind each name that ends a shard wherever it stands, and nowhere else."""
    runs: list[list[int]] = [[]]
    for name in names:
        runs[-1].append(name)
        if len(_cut([name, name])) == 2:
            runs.append([])
    return [run for run in runs if run]


def _digests(folder: Path, names: list[int]) -> list[tuple[str, str]]:
    """Write the shards of some names and give the hashes of their files."""
    shards = cut_shards([_batch(names)], LONGEST)
    entries = [write_shard(folder, f"shard-{index:05d}", *shard) for index, shard in enumerate(shards)]
    return [(entry["images_sha256"], entry["facts_sha256"]) for entry in entries]


@given(names=NAMES)
def test_shards_are_runs_between_borders_and_long_runs_are_cut_by_count(names: list[int]) -> None:
    parts = [run[start : start + LONGEST] for run in _runs(names) for start in range(0, len(run), LONGEST)]
    assert _cut(names) == parts


@settings(deadline=None, max_examples=50)
@given(names=NAMES, new=st.integers(10**6, 10**7 - 1), data=st.data())
def test_an_image_added_anywhere_leaves_the_bytes_of_all_shards_of_other_runs(
    names: list[int], new: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(names)))
    with tempfile.TemporaryDirectory() as folder:
        before = _digests(Path(folder), names)
        after = _digests(Path(folder), [*names[:place], new, *names[place:]])
    start, kept = 0, []
    for run in _runs(names):
        shard_count = -(-len(run) // LONGEST)
        if not start <= place <= start + len(run):
            kept += before[:shard_count]
        before = before[shard_count:]
        start += len(run)
    assert set(kept) <= set(after)


@settings(deadline=None, max_examples=50)
@given(names=NAMES, data=st.data())
def test_an_image_taken_away_leaves_the_bytes_of_all_shards_of_other_runs(
    names: list[int], data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(names) - 1))
    runs = _runs(names)
    starts = np.cumsum([0, *map(len, runs)])
    touched = int(np.searchsorted(starts, place, side="right")) - 1
    # A border that goes away joins its run with the next.
    far = [run for index, run in enumerate(runs) if index not in (touched, touched + 1)]
    with tempfile.TemporaryDirectory() as folder:
        after = _digests(Path(folder), [*names[:place], *names[place + 1 :]])
        kept = [digest for run in far for digest in _digests(Path(folder), run)]
    assert set(kept) <= set(after)


@settings(deadline=None)
@given(names=NAMES, more=NAMES)
def test_images_added_at_the_end_touch_no_shard_but_the_last(names: list[int], more: list[int]) -> None:
    before = _cut(names)
    assert _cut([*names, *(name for name in more if name not in names)])[: len(before) - 1] == before[:-1]


@given(names=NAMES, data=st.data())
def test_it_does_not_matter_how_the_images_come_in_batches(names: list[int], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(names)), max_size=5)))
    parts = [names[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(names)], strict=True)]
    shards = cut_shards([_batch(part) for part in parts], LONGEST)
    assert [[int(name[:7]) for piece in shard for name in piece.names_N.tolist()] for shard in shards] == _cut(names)


def test_shards_of_a_folder_of_many_are_a_quarter_of_the_longest_on_the_mean(tmp_path: Path) -> None:
    pixels_NHWC = random_pixels(50_000, side_px=2, channel_count=1)
    batches = [batch_of(part_NHWC, [0] * len(part_NHWC)) for part_NHWC in np.split(pixels_NHWC, [1, 9_999, 10_002])]
    starts = np.cumsum([0, *(len(batch.labels_N) for batch in batches)])
    named = (
        replace(batch, names_N=np.array([f"cat/{start + index:06d}.png" for index in range(len(batch.labels_N))]))
        for start, batch in zip(starts, batches, strict=False)
    )
    write_shards(tmp_path, named, CLASSES, {})
    images = open_images(tmp_path)
    counts = [len(shard) for shard in images.shards]
    # 20 borders are expected, 4.5 is their standard deviation.
    assert 7 <= len(counts) <= 34
    assert max(counts) <= 10_000
    np.testing.assert_array_equal(images.take(np.arange(50_000)), pixels_NHWC)
    np.testing.assert_array_equal(images.content_N, content_hashes(pixels_NHWC))


def test_pixels_of_a_shard_stay_below_their_bound() -> None:
    pixels_NHWC = np.zeros((19, 4096, 2048, 1), np.uint8)  # 16 of them fill 128 MiB
    shards = cut_shards([batch_of(pixels_NHWC, [0] * 19)])
    counts = [sum(len(piece.labels_N) for piece in shard) for shard in shards]
    assert sum(counts) == 19
    assert max(counts) <= 16


def test_slices_and_modes_of_an_image_stay_beside_it_across_shards(tmp_path: Path) -> None:
    plain = batch_of(random_pixels(10_001, side_px=1, channel_count=1), [0] * 10_001)
    sliced = replace(
        plain,
        slices_N=np.array([f'{{"camera": "{index}"}}' for index in range(10_001)]),
        modes_N=np.array([index % 5 for index in range(10_001)], np.uint8),
    )
    write_shards(tmp_path, [plain, sliced], CLASSES, {})
    images = open_images(tmp_path)
    assert images.slices_N is not None
    assert images.slices_N.tolist() == [""] * 10_001 + [f'{{"camera": "{index}"}}' for index in range(10_001)]
    assert images.modes_N is not None
    assert images.modes_N.tolist() == [2] * 10_001 + [index % 5 for index in range(10_001)]


def test_a_source_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        write_shards(tmp_path, [], CLASSES, {})
    assert str(caught.value) == (
        "The source holds no images. Point generate.path at some, or raise generate.image_count."
    )
