"""The split: content alone decides, so data may grow and shrink."""

import hashlib
from dataclasses import dataclass

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convloop.core.images import NO_SPLIT, SPLITS
from convloop.core.split import (
    TEST,
    TRAIN,
    VAL,
    freeze_test_set,
    leave_out_near_twins,
    split_by_content,
    versions_of_test,
)

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
    return [int(split) for split in _assigned(_content(hashes), np.array(given, np.int8), val_share, test_share)]


def _assigned(
    content_N: NDArray[np.void], given_N: NDArray[np.int8], val_share: float = 0.1, test_share: float = 0.2
) -> NDArray[np.int8]:
    """Split images that all came at once."""
    arrivals_N = np.zeros(len(given_N), np.int32)
    return split_by_content(content_N, given_N, arrivals_N, val_share=val_share, test_share=test_share)


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
    splits_N = _assigned(_random_content(5_000), given_N, 0.1, 0.2)
    assert np.flatnonzero(splits_N == TEST).tolist() == list(range(10))


def test_no_image_joins_a_given_val_set() -> None:
    given_N = _free(5_000)
    given_N[:10] = VAL
    splits_N = _assigned(_random_content(5_000), given_N, 0.1, 0.2)
    assert np.flatnonzero(splits_N == VAL).tolist() == list(range(10))


def test_val_is_drawn_from_train_where_the_source_gives_none() -> None:
    given_N = np.full(5_000, TRAIN, np.int8)
    given_N[:1_000] = TEST
    splits_N = _assigned(_random_content(5_000), given_N, 0.1, 0.2)
    assert abs(np.mean(splits_N[1_000:] == VAL) - 0.1) < 0.025


def test_the_shares_are_about_right() -> None:
    count = 50_000
    splits_N = _assigned(_random_content(count), _free(count), 0.15, 0.25)
    counts = np.bincount(splits_N, minlength=3)
    expected = count * np.array([0.6, 0.15, 0.25])
    # Chi-square with two degrees of freedom exceeds 18.4 once in ten thousand times.
    assert ((counts - expected) ** 2 / expected).sum() < 18.4


def test_shares_of_each_class_scatter_as_a_draw_does_and_no_more() -> None:
    """The sum of 200 squared deviations, in units of their own, is 200 with a standard deviation of 20."""
    class_count, image_count = 200, 250
    splits_N = _assigned(_random_content(class_count * image_count), _free(class_count * image_count), 0.1, 0.2)
    for split, share in ((VAL, 0.1), (TEST, 0.2)):
        count_K = (splits_N.reshape(class_count, image_count) == split).sum(1)
        squared_K = (count_K - share * image_count) ** 2 / (share * (1 - share) * image_count)
        assert 100 < squared_K.sum() < 300


def test_a_larger_test_share_only_adds_test_images() -> None:
    content_N = _random_content(5_000)
    small_N = _assigned(content_N, _free(5_000), 0.1, 0.1)
    large_N = _assigned(content_N, _free(5_000), 0.1, 0.2)
    assert np.all(large_N[small_N == TEST] == TEST)


def test_a_test_set_that_lands_later_does_not_change_the_split_of_the_source() -> None:
    content_N, given_N = _random_content(5_000), _free(5_000)
    before_N = _assigned(content_N[:4_000], given_N[:4_000])
    given_N[4_000:] = TEST
    arrivals_N = np.repeat(np.array([0, 1], np.int32), [4_000, 1_000])
    after_N = split_by_content(content_N, given_N, arrivals_N, val_share=0.1, test_share=0.2)
    assert after_N[:4_000].tolist() == before_N.tolist()
    assert (after_N[4_000:] == TEST).all()


@dataclass(frozen=True)
class Picture:
    """An image of the properties below; two are near-twins where their scenes are at most 1 apart.

    So B may be near A and C, and A not near C, as with real near-twins.
    """

    content: bytes
    scene: int
    given: int
    arrival: int


def _pictures(given: st.SearchStrategy[int]) -> st.SearchStrategy[list[Picture]]:
    one = st.builds(Picture, st.binary(min_size=32, max_size=32), st.integers(0, 20), given, st.integers(0, 3))
    return st.lists(one, min_size=1, max_size=40, unique_by=lambda picture: picture.content).map(
        lambda pictures: sorted(pictures, key=lambda picture: picture.arrival)
    )


def _near(pictures: list[Picture]) -> list[tuple[int, int]]:
    return [
        (left, right)
        for right in range(len(pictures))
        for left in range(right)
        if abs(pictures[left].scene - pictures[right].scene) <= 1
    ]


def _sides(pictures: list[Picture]) -> dict[bytes, int]:
    """Give the side of each picture after near-twins were left out."""
    content_N = _content([picture.content for picture in pictures])
    given_N = np.array([picture.given for picture in pictures], np.int8)
    arrivals_N = np.array([picture.arrival for picture in pictures], np.int32)
    splits_N = split_by_content(content_N, given_N, arrivals_N, val_share=0.3, test_share=0.3)
    pairs_P2 = np.array(_near(pictures), np.int64).reshape(-1, 2)
    sides_N = leave_out_near_twins(splits_N, given_N, arrivals_N, content_N, pairs_P2)
    return dict(zip((picture.content for picture in pictures), sides_N.tolist(), strict=True))


FREE_PICTURES = _pictures(st.just(NO_SPLIT))
ALL_PICTURES = _pictures(GIVEN)


@settings(deadline=None)
@given(pictures=FREE_PICTURES)
def test_near_twins_never_lie_in_two_splits(pictures: list[Picture]) -> None:
    sides = _sides(pictures)
    for left, right in _near(pictures):
        assert len({sides[pictures[left].content], sides[pictures[right].content]} - {NO_SPLIT}) < 2


@settings(deadline=None)
@given(pictures=FREE_PICTURES)
def test_an_image_is_on_the_side_of_its_content_or_on_none(pictures: list[Picture]) -> None:
    own = _split([picture.content for picture in pictures], [NO_SPLIT] * len(pictures), 0.3, 0.3)
    sides = _sides(pictures)
    assert all(sides[picture.content] in (side, NO_SPLIT) for picture, side in zip(pictures, own, strict=True))


@settings(deadline=None)
@given(pictures=FREE_PICTURES)
def test_never_are_all_left_out(pictures: list[Picture]) -> None:
    sides = _sides(pictures)
    assert any(side != NO_SPLIT for side in sides.values())


@settings(deadline=None)
@given(pictures=ALL_PICTURES, last=st.integers(0, 2))
def test_what_arrives_later_never_changes_what_was_there(pictures: list[Picture], last: int) -> None:
    old = [picture for picture in pictures if picture.arrival <= last]
    if any(picture.arrival == 0 for picture in old):
        before, after = _sides(old), _sides(pictures)
        assert {content: after[content] for content in before} == before


@settings(deadline=None)
@given(pictures=FREE_PICTURES, new=FREE_PICTURES)
def test_a_source_that_grows_moves_no_image_to_another_split_and_takes_none_from_test(
    pictures: list[Picture], new: list[Picture]
) -> None:
    """Sources list their files in any order, so all that a source holds counts as having come at once."""
    old = [Picture(picture.content, picture.scene, NO_SPLIT, 0) for picture in pictures]
    known = {picture.content for picture in old}
    grown = [
        *old,
        *(Picture(picture.content, picture.scene, NO_SPLIT, 0) for picture in new if picture.content not in known),
    ]
    before, after = _sides(old), _sides(grown)
    assert all(after[content] in (side, NO_SPLIT) for content, side in before.items())
    assert all(after[content] == TEST for content, side in before.items() if side == TEST)


@settings(deadline=None)
@given(pictures=FREE_PICTURES, data=st.data())
def test_what_is_removed_moves_no_image_and_only_brings_others_back(
    pictures: list[Picture], data: st.DataObject
) -> None:
    kept = data.draw(st.lists(st.sampled_from(pictures), min_size=1, unique_by=lambda picture: picture.content))
    left = sorted(kept, key=lambda picture: picture.arrival)
    before, after = _sides(pictures), _sides(left)
    assert all(side == before[content] for content, side in after.items() if before[content] != NO_SPLIT)


@settings(deadline=None)
@given(pictures=FREE_PICTURES, data=st.data())
def test_the_order_within_one_arrival_does_not_matter(pictures: list[Picture], data: st.DataObject) -> None:
    mixed = sorted(data.draw(st.permutations(pictures)), key=lambda picture: picture.arrival)
    assert _sides(mixed) == _sides(pictures)


@settings(deadline=None)
@given(pictures=_pictures(GIVEN).map(lambda all_: [Picture(p.content, p.scene, p.given, 0) for p in all_]))
def test_a_given_split_is_never_changed_by_an_image_of_none(pictures: list[Picture]) -> None:
    sides = _sides(pictures)
    assert all(sides[picture.content] == picture.given for picture in pictures if picture.given in (VAL, TEST))


def test_copies_of_an_image_are_left_out_with_it() -> None:
    content_N = _content([b"a" * 32, b"b" * 32, b"b" * 32, b"c" * 32])
    free_N, arrivals_N = _free(4), np.array([0, 1, 1, 1], np.int32)
    sides_N = leave_out_near_twins(
        np.array([TRAIN, TEST, TEST, TEST], np.int8), free_N, arrivals_N, content_N, np.array([[0, 1]])
    )
    assert sides_N.tolist() == [TRAIN, NO_SPLIT, NO_SPLIT, TEST]


def test_near_twins_that_a_source_gave_to_two_splits_stay_as_given() -> None:
    splits_N = np.array([TRAIN, TEST], np.int8)
    sides_N = leave_out_near_twins(splits_N, splits_N, np.zeros(2, np.int32), _random_content(2), np.array([[0, 1]]))
    assert sides_N.tolist() == [TRAIN, TEST]


def test_val_drawn_from_given_train_images_keeps_its_near_twins_out_of_training() -> None:
    given_N = np.array([TRAIN, TRAIN], np.int8)
    sides_N = leave_out_near_twins(
        np.array([TRAIN, VAL], np.int8), given_N, np.zeros(2, np.int32), _random_content(2), np.array([[0, 1]])
    )
    assert sides_N.tolist() == [NO_SPLIT, VAL]


def test_each_arrival_with_test_images_makes_a_version_of_the_test_set() -> None:
    content_N = _random_content(6)
    splits_N = np.array([TEST, TRAIN, TRAIN, TEST, TEST, VAL], np.int8)
    arrivals_N = np.array([0, 0, 1, 2, 2, 3], np.int32)
    first, second = versions_of_test(splits_N, arrivals_N, content_N)
    assert (first.version, first.image_count, first.arrival) == (1, 1, 0)
    assert (second.version, second.image_count, second.arrival) == (2, 3, 2)
    assert first.sha256 == hashlib.sha256(content_N[:1].tobytes()).hexdigest()
    alone = versions_of_test(splits_N[:3], arrivals_N[:3], content_N[:3])
    assert alone == (first,)


def test_a_frozen_test_set_leaves_out_the_test_images_that_came_later() -> None:
    content_N = _random_content(5)
    splits_N = np.array([TEST, TRAIN, TEST, VAL, TRAIN], np.int8)
    arrivals_N = np.array([0, 0, 1, 1, 1], np.int32)
    first = versions_of_test(splits_N, arrivals_N, content_N)[0]
    frozen_N = freeze_test_set(splits_N, arrivals_N, first)
    assert frozen_N.tolist() == [TEST, TRAIN, NO_SPLIT, VAL, TRAIN]
    assert versions_of_test(frozen_N, arrivals_N, content_N) == (first,)
