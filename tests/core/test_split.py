"""The split: content alone decides, so data may grow."""

import hashlib

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS
from convloop.core.split import TEST, TRAIN, VAL, split_by_content

HASHES = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=60)
SHARES = st.floats(0.01, 0.45)
GIVEN = st.sampled_from([NO_SPLIT, TRAIN, VAL, TEST])


def _content(hashes: list[bytes]) -> NDArray[np.void]:
    return np.frombuffer(b"".join(hashes), np.dtype("V32"))


def _random_content(count: int) -> NDArray[np.void]:
    return _content([hashlib.sha256(str(index).encode()).digest() for index in range(count)])


def _free(count: int) -> NDArray[np.int8]:
    return np.full(count, NO_SPLIT, np.int8)


def _split(hashes: list[bytes], given: list[int], val_share: float = 0.1, test_share: float = 0.2) -> list[int]:
    splits_N = split_by_content(_content(hashes), np.array(given, np.int8), val_share=val_share, test_share=test_share)
    return [int(split) for split in splits_N]


def test_the_names_of_the_splits_match_their_numbers() -> None:
    assert (SPLITS[TRAIN], SPLITS[VAL], SPLITS[TEST]) == ("train", "val", "test")


@settings(deadline=None)
@given(old=HASHES, new=HASHES, val_share=SHARES, test_share=SHARES)
def test_new_images_never_move_an_old_one(
    old: list[bytes], new: list[bytes], val_share: float, test_share: float
) -> None:
    before = _split(old, [NO_SPLIT] * len(old), val_share, test_share)
    after = _split([*old, *new], [NO_SPLIT] * (len(old) + len(new)), val_share, test_share)
    assert after[: len(old)] == before


@settings(deadline=None)
@given(old=st.lists(st.tuples(st.binary(min_size=32, max_size=32), GIVEN), min_size=1, max_size=60), new=HASHES)
def test_new_images_never_move_one_of_a_source_that_gives_splits(
    old: list[tuple[bytes, int]], new: list[bytes]
) -> None:
    hashes, given = [content for content, _ in old], [split for _, split in old]
    before = _split(hashes, given)
    after = _split([*hashes, *new], [*given, *[NO_SPLIT] * len(new)])
    assert after[: len(old)] == before


@settings(deadline=None)
@given(hashes=HASHES, data=st.data())
def test_removed_images_never_move_another(hashes: list[bytes], data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.booleans(), min_size=len(hashes), max_size=len(hashes)).filter(any))
    before = _split(hashes, [NO_SPLIT] * len(hashes))
    left = [content for content, stays in zip(hashes, kept, strict=True) if stays]
    expected = [split for split, stays in zip(before, kept, strict=True) if stays]
    assert _split(left, [NO_SPLIT] * len(left)) == expected


@settings(deadline=None)
@given(hashes=HASHES, data=st.data())
def test_the_order_of_the_images_does_not_matter(hashes: list[bytes], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(hashes))))
    before = _split(hashes, [NO_SPLIT] * len(hashes))
    after = _split([hashes[index] for index in order], [NO_SPLIT] * len(hashes))
    assert after == [before[index] for index in order]


@settings(deadline=None)
@given(hashes=HASHES, val_share=SHARES, test_share=SHARES)
def test_twins_fall_together(hashes: list[bytes], val_share: float, test_share: float) -> None:
    splits = _split(hashes * 2, [NO_SPLIT] * (2 * len(hashes)), val_share, test_share)
    assert splits[: len(hashes)] == splits[len(hashes) :]


@settings(deadline=None)
@given(images=st.lists(st.tuples(st.binary(min_size=32, max_size=32), GIVEN), min_size=1, max_size=60))
def test_a_given_val_or_test_split_is_kept(images: list[tuple[bytes, int]]) -> None:
    splits = _split([content for content, _ in images], [given for _, given in images])
    assert all(split == given for split, (_, given) in zip(splits, images, strict=True) if given in (VAL, TEST))


@settings(deadline=None)
@given(images=st.lists(st.tuples(st.binary(min_size=32, max_size=32), GIVEN), min_size=1, max_size=60))
def test_an_image_given_to_train_is_never_a_test_image(images: list[tuple[bytes, int]]) -> None:
    splits = _split([content for content, _ in images], [given for _, given in images])
    assert all(split != TEST for split, (_, given) in zip(splits, images, strict=True) if given == TRAIN)


def test_no_image_joins_a_given_test_set() -> None:
    given_N = _free(5_000)
    given_N[:10] = TEST
    splits_N = split_by_content(_random_content(5_000), given_N, val_share=0.1, test_share=0.2)
    assert np.flatnonzero(splits_N == TEST).tolist() == list(range(10))


def test_no_image_joins_a_given_val_set() -> None:
    given_N = _free(5_000)
    given_N[:10] = VAL
    splits_N = split_by_content(_random_content(5_000), given_N, val_share=0.1, test_share=0.2)
    assert np.flatnonzero(splits_N == VAL).tolist() == list(range(10))


def test_val_is_drawn_from_train_where_the_source_gives_none() -> None:
    given_N = np.full(5_000, TRAIN, np.int8)
    given_N[:1_000] = TEST
    splits_N = split_by_content(_random_content(5_000), given_N, val_share=0.1, test_share=0.2)
    assert abs(np.mean(splits_N[1_000:] == VAL) - 0.1) < 0.025


def test_the_shares_are_about_right() -> None:
    count = 50_000
    splits_N = split_by_content(_random_content(count), _free(count), val_share=0.15, test_share=0.25)
    counts = np.bincount(splits_N, minlength=3)
    expected = count * np.array([0.6, 0.15, 0.25])
    # Chi-square with two degrees of freedom exceeds 18.4 once in ten thousand times.
    assert ((counts - expected) ** 2 / expected).sum() < 18.4


def test_a_larger_test_share_only_adds_test_images() -> None:
    content_N = _random_content(5_000)
    small_N = split_by_content(content_N, _free(5_000), val_share=0.1, test_share=0.1)
    large_N = split_by_content(content_N, _free(5_000), val_share=0.1, test_share=0.2)
    assert np.all(large_N[small_N == TEST] == TEST)
