"""Near-twins: found by hash, confirmed by pixels, never compared all with all."""

import io
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convloop.core.twins import comparison_count, correlations, find_near_twins, pairs_within

from .pictures import images_of, random_pixels

# Few set bits, so that many hashes lie near each other.
NEAR_HASHES = st.lists(st.integers(0, 2**64 - 1).map(lambda bits: bits & 0x1003000F00018001), min_size=2, max_size=60)


def _photos(count: int, side_px: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Draw smooth pictures, as photographs are: noise made larger."""
    small_NHWC = random_pixels(count, side_px=12, seed=seed)
    sizes = (side_px, side_px)
    return np.stack(
        [np.asarray(Image.fromarray(small).resize(sizes, Image.Resampling.BICUBIC)) for small in small_NHWC]
    )


def _saved_again(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    stream = io.BytesIO()
    Image.fromarray(image_HWC).save(stream, "JPEG", quality=90, subsampling=0)
    return np.asarray(Image.open(stream))


def _brighter(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.asarray(20 + image_HWC * 0.8, np.uint8)


def _one_by_one(hashes: list[int], distance_bits: int) -> list[tuple[int, int]]:
    return [
        (left, right)
        for left, right in combinations(range(len(hashes)), 2)
        if (hashes[left] ^ hashes[right]).bit_count() <= distance_bits
    ]


@settings(deadline=None)
@given(hashes=NEAR_HASHES, distance_bits=st.integers(0, 7))
def test_search_finds_what_comparing_all_with_all_finds(hashes: list[int], distance_bits: int) -> None:
    pairs_P2 = pairs_within(np.array(hashes, np.uint64), distance_bits, 10_000)
    assert pairs_P2 is not None
    assert [(int(left), int(right)) for left, right in pairs_P2] == _one_by_one(hashes, distance_bits)


def test_search_in_many_chunks_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashes_N = np.random.default_rng(0).integers(0, 2**64, 400, np.uint64) & np.uint64(0x0101010101010101)
    whole_P2 = pairs_within(hashes_N, 5, 100_000)
    monkeypatch.setattr("convloop.core.twins._CHUNK_COUNT", 7)
    chunked_P2 = pairs_within(hashes_N, 5, 100_000)
    assert whole_P2 is not None
    assert chunked_P2 is not None
    np.testing.assert_array_equal(chunked_P2, whole_P2)


def test_search_gives_up_on_too_many_pairs() -> None:
    assert pairs_within(np.zeros(100, np.uint64), 0, 4_949) is None
    pairs_P2 = pairs_within(np.zeros(100, np.uint64), 0, 4_950)
    assert pairs_P2 is not None
    assert len(pairs_P2) == 4_950


@pytest.mark.parametrize(("distance_bits", "expected"), [(3, 9), (4, 11)])
def test_comparisons_are_counted_before_they_are_made(distance_bits: int, expected: int) -> None:
    """Three pairs are equal in three bands; in the fourth, 0 and 1, and 1 and 3, are one bit apart."""
    assert comparison_count(np.array([0, 1, 3], np.uint64), distance_bits) == expected


def test_correlation_is_that_of_numpy() -> None:
    pixels_NHWC = random_pixels(6, side_px=9)
    images = images_of(pixels_NHWC, [0] * 6, ("a",), shard_sizes=(2,))
    pairs_P2 = np.array([[0, 1], [0, 5], [3, 4]])
    expected = [np.corrcoef(pixels_NHWC[left].ravel(), pixels_NHWC[right].ravel())[0, 1] for left, right in pairs_P2]
    np.testing.assert_allclose(correlations(images, pairs_P2), expected, atol=1e-5)


def test_blank_images_correlate_with_nothing() -> None:
    pixels_NHWC = np.stack([np.full((8, 8, 3), value, np.uint8) for value in (0, 9, 200)])
    images = images_of(pixels_NHWC, [0] * 3, ("a",))
    assert correlations(images, np.array([[0, 1], [1, 2]])).tolist() == [0, 0]


def test_copies_saved_again_or_brightened_are_near_twins() -> None:
    photos_NHWC = _photos(60)
    copies = [_saved_again(photos_NHWC[3]), _brighter(photos_NHWC[7]), _saved_again(photos_NHWC[50])]
    images = images_of(np.concatenate([photos_NHWC, np.stack(copies)]), [0] * 63, ("a",), shard_sizes=(40,))
    twins = find_near_twins(images)
    assert twins.pairs_P2.tolist() == [[3, 60], [7, 61], [50, 62]]
    assert twins.distance_bits == 7
    assert (twins.correlation_P > 0.98).all()


def test_identical_pixels_are_named_once() -> None:
    photos_NHWC = _photos(30)
    again = _saved_again(photos_NHWC[4])
    pixels_NHWC = np.concatenate([photos_NHWC, photos_NHWC[4:5], again[None], again[None]])
    assert find_near_twins(images_of(pixels_NHWC, [0] * 33, ("a",))).pairs_P2.tolist() == [[4, 31]]


def test_pictures_that_only_hash_alike_are_no_twins() -> None:
    """Few clean strokes hash alike by the thousand; their pixels tell them apart."""
    rng = np.random.default_rng(0)
    pixels_NHWC = np.zeros((400, 16, 16, 1), np.uint8)
    for image_HWC in pixels_NHWC:
        top, left = rng.integers(0, 14, 2)
        image_HWC[top : top + 2, left : left + 2] = rng.integers(100, 255)
    twins = find_near_twins(images_of(pixels_NHWC, [0] * 400, ("a",)))
    same = {
        (left, right)
        for left, right in combinations(range(400), 2)
        if ((pixels_NHWC[left] > 0) == (pixels_NHWC[right] > 0)).all()
    }
    assert {(int(left), int(right)) for left, right in twins.pairs_P2} <= same


def test_hashes_that_tell_nothing_are_not_searched() -> None:
    """Faint noise over one strong pattern: equal hashes, unrelated pixels."""
    images = images_of(random_pixels(50), [0] * 50, ("a",))
    blind = type(images)(**{**images.__dict__, "phash_N": np.zeros(50, np.uint64)})
    twins = find_near_twins(blind)
    assert twins.distance_bits is None
    assert len(twins.pairs_P2) == 0
    assert twins.false_share > 0.99
    assert twins.unsearched == "100.0% of random pairs have equal perceptual hashes and differ all the same"


@pytest.mark.parametrize(
    ("limit", "why"),
    [
        ("_MAX_CANDIDATE_COUNT", "about 40 pairs have equal hashes, of which 0 can be compared"),
        ("_MAX_COMPARISON_COUNT", "164 hashes would have to be compared, of which 0 can be"),
    ],
)
def test_a_search_that_costs_too_much_says_what_of(monkeypatch: pytest.MonkeyPatch, limit: str, why: str) -> None:
    """Forty pictures, each twice and nearly the same."""
    pixels_NHWC = np.repeat(random_pixels(40, side_px=16) // 2, 2, axis=0)
    pixels_NHWC[1::2] += 1
    monkeypatch.setattr(f"convloop.core.twins.{limit}", 0)
    twins = find_near_twins(images_of(pixels_NHWC, [0] * 80, ("a",)))
    assert twins.distance_bits is None
    assert twins.unsearched == why


def test_bursts_of_near_twins_do_not_make_the_search_blind() -> None:
    """With forty frames of each of five scenes, one random pair in five matches, and rightly so."""
    scenes_NHWC = _photos(5).astype(np.int64)
    noise_NHWC = np.random.default_rng(1).integers(-3, 4, (200, 32, 32, 3))
    pixels_NHWC = np.clip(np.repeat(scenes_NHWC, 40, axis=0) + noise_NHWC, 0, 255).astype(np.uint8)
    twins = find_near_twins(images_of(pixels_NHWC, [0] * 200, ("a",)))
    assert twins.distance_bits is not None
    assert {(left // 40, right // 40) for left, right in twins.pairs_P2.tolist()} == {
        (scene, scene) for scene in range(5)
    }
    assert len(twins.pairs_P2) > 0.9 * 5 * 40 * 39 / 2


def test_one_image_has_no_twins() -> None:
    assert len(find_near_twins(images_of(random_pixels(1), [0], ("a",))).pairs_P2) == 0
