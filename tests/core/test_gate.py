"""The gate, and its interval against a slow reference."""

from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import bisect, minimize_scalar
from scipy.stats import norm

from convloop.core.gate import Verdict, compare, decide, tango_interval

COUNTS = st.integers(1, 400).flatmap(
    lambda count: st.integers(0, count).flatmap(
        lambda won: st.tuples(st.just(won), st.integers(0, count - won), st.just(count))
    )
)


def _right(both: int = 0, won: int = 0, lost: int = 0, neither: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Give the right answers of candidate and champion from the counts of the four cases."""
    sizes = (both, won, lost, neither)
    return np.repeat([True, True, False, False], sizes), np.repeat([True, False, True, False], sizes)


def _decide(
    both: int = 0,
    won: int = 0,
    lost: int = 0,
    neither: int = 0,
    *,
    min_accuracy_share: float = 0.5,
    min_gain_share: float = 0.0,
    max_loss_share: float = 0.01,
) -> Verdict:
    candidate_N, champion_N = _right(both, won, lost, neither)
    return decide(
        candidate_N,
        champion_N,
        champion_version="7",
        min_accuracy_share=min_accuracy_share,
        min_gain_share=min_gain_share,
        max_loss_share=max_loss_share,
    )


def _first(right_count: int, count: int) -> Verdict:
    right_N = np.arange(count) < right_count
    return decide(right_N, None, min_accuracy_share=0.5, min_gain_share=0.0, max_loss_share=0.01)


def _reference_score(won: int, lost: int, count: int, difference: float) -> float:
    """Standardise the gain with the likeliest table of that difference, which a search finds."""

    def surprise(lost_share: float) -> float:
        shares = (lost_share + difference, lost_share, 1 - 2 * lost_share - difference)
        return -sum(
            times * log(max(share, 1e-300))
            for times, share in zip((won, lost, count - won - lost), shares, strict=True)
            if times
        )

    bounds = (max(0.0, -difference), (1 - difference) / 2)
    lost_share = float(minimize_scalar(surprise, bounds=bounds, method="bounded", options={"xatol": 1e-14}).x)
    variance = count * (2 * lost_share + difference - difference**2)
    return (won - lost - count * difference) / sqrt(max(variance, 1e-300))


def _reference_interval(won: int, lost: int, count: int) -> tuple[float, float]:
    z, gain = float(norm.ppf(0.975)), (won - lost) / count
    low = bisect(lambda d: _reference_score(won, lost, count, d) - z, -1 + 1e-9, gain)
    high = bisect(lambda d: _reference_score(won, lost, count, d) + z, gain, 1 - 1e-9)
    return float(low), float(high)


def test_gate_promotes_the_first_model_above_the_floor() -> None:
    assert _first(7, 10) == Verdict(True, "Promoted: test accuracy 0.700, floor 0.5; there was no champion yet.")


def test_gate_promotes_the_first_model_at_the_floor() -> None:
    assert _first(5, 10).promoted


def test_gate_refuses_the_first_model_below_the_floor() -> None:
    assert _first(4, 10) == Verdict(
        False, "Refused: test accuracy 0.400; register.min_accuracy_share asks for 0.5. Nothing was promoted."
    )


def test_gate_refuses_below_the_floor_even_if_the_champion_is_worse() -> None:
    verdict = _decide(won=400, neither=600)
    assert verdict == Verdict(
        False, "Refused: test accuracy 0.400; register.min_accuracy_share asks for 0.5. Nothing was promoted."
    )


def test_gate_promotes_a_better_candidate() -> None:
    verdict = _decide(both=1700, won=200, lost=50, neither=50)
    assert verdict.promoted
    assert verdict.reason == (
        "Promoted: test accuracy 0.950 against 0.875 (champion, version 7), 95 % interval +0.060 to +0.091."
    )


def test_gate_refuses_a_tie() -> None:
    verdict = _decide(both=1800, won=50, lost=50, neither=100)
    assert not verdict.promoted
    assert verdict.reason == (
        "Refused: test accuracy 0.925 against 0.925 (champion, version 7), 95 % interval -0.010 to +0.010; "
        "register.min_gain_share asks for more than 0. Nothing was promoted."
    )


def test_gate_refuses_a_model_with_the_very_same_answers() -> None:
    assert not _decide(both=2000).promoted


def test_gate_refuses_a_loss() -> None:
    verdict = _decide(both=1700, won=50, lost=200, neither=50)
    assert not verdict.promoted
    assert verdict.reason == (
        "Refused: test accuracy 0.875 against 0.950 (champion, version 7), 95 % interval -0.091 to -0.060; "
        "register.min_gain_share asks for more than 0. Nothing was promoted."
    )


def test_gate_refuses_thin_evidence() -> None:
    verdict = _decide(both=80, won=6, lost=4, neither=10)
    assert not verdict.promoted
    assert verdict.reason == (
        "Refused: test accuracy 0.860 against 0.840 (champion, version 7), 95 % interval -0.048 to +0.092; "
        "register.max_loss_share allows 0.01, and 100 test images cannot rule out more. Nothing was promoted."
    )


def test_gate_promotes_the_same_shares_on_more_images() -> None:
    assert _decide(both=8_000, won=600, lost=400, neither=1_000).promoted


@pytest.mark.parametrize(("max_loss_share", "promoted"), [(0.048, False), (0.049, True)])
def test_gate_promotes_once_the_allowed_loss_covers_the_interval(max_loss_share: float, promoted: bool) -> None:
    assert _decide(both=80, won=6, lost=4, neither=10, max_loss_share=max_loss_share).promoted is promoted


def test_gate_refuses_a_gain_that_is_just_the_one_asked_for() -> None:
    verdict = _decide(both=1000, won=500, lost=0, neither=500, min_gain_share=0.25)
    assert not verdict.promoted
    assert verdict.reason.endswith("; register.min_gain_share asks for more than 0.25. Nothing was promoted.")


def test_gate_shows_the_numbers_behind_its_answer() -> None:
    comparison = _decide(both=1700, won=200, lost=50, neither=50).comparison
    assert comparison is not None
    assert (comparison.image_count, comparison.champion_accuracy, comparison.gain_share) == (2000, 0.875, 0.075)


def test_compare_counts_the_images_on_which_the_two_disagree() -> None:
    comparison = compare(*_right(both=60, won=20, lost=10, neither=10))
    assert comparison.gain_share == 0.1
    assert (comparison.low_share, comparison.high_share) == tango_interval(20, 10, 100)


@pytest.mark.parametrize(
    ("won", "lost", "count"),
    [
        (0, 0, 30),
        (1, 0, 30),
        (0, 1, 30),
        (5, 3, 30),
        (15, 15, 30),
        (25, 4, 30),
        (7, 2, 500),
        (300, 260, 3200),
        (1, 1, 2),
    ],
)
def test_interval_is_that_of_the_restricted_maximum_likelihood(won: int, lost: int, count: int) -> None:
    assert tango_interval(won, lost, count) == pytest.approx(_reference_interval(won, lost, count), abs=1e-5)


@settings(deadline=None, max_examples=30)
@given(counts=COUNTS)
def test_interval_ends_where_the_reference_score_is_that_of_the_confidence(counts: tuple[int, int, int]) -> None:
    low, high = tango_interval(*counts)
    if low > -0.999:
        assert _reference_score(*counts, low) == pytest.approx(norm.ppf(0.975), abs=1e-3)
    if high < 0.999:
        assert _reference_score(*counts, high) == pytest.approx(norm.ppf(0.025), abs=1e-3)


@settings(deadline=None)
@given(counts=COUNTS)
def test_interval_contains_the_gain(counts: tuple[int, int, int]) -> None:
    won, lost, count = counts
    low, high = tango_interval(won, lost, count)
    assert -1 <= low <= (won - lost) / count <= high <= 1


@settings(deadline=None)
@given(counts=COUNTS)
def test_interval_changes_sides_with_the_models(counts: tuple[int, int, int]) -> None:
    won, lost, count = counts
    low, high = tango_interval(won, lost, count)
    assert tango_interval(lost, won, count) == pytest.approx((-high, -low), abs=1e-9)


@settings(deadline=None)
@given(counts=COUNTS)
def test_interval_shrinks_with_more_images(counts: tuple[int, int, int]) -> None:
    won, lost, count = counts
    low, high = tango_interval(won, lost, count)
    low_of_more, high_of_more = tango_interval(4 * won, 4 * lost, 4 * count)
    assert high_of_more - low_of_more < high - low


def test_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    tables = rng.multinomial(200, [0.06, 0.02, 0.92], 2_000)
    covered = [
        low <= 0.04 <= high for low, high in (tango_interval(int(won), int(lost), 200) for won, lost, _ in tables)
    ]
    assert 0.935 < np.mean(covered) < 0.97


@pytest.mark.parametrize(("won", "lost"), [(10, 0), (0, 10)])
def test_interval_of_a_complete_win_or_loss_ends_at_one(won: int, lost: int) -> None:
    low, high = tango_interval(won, lost, 10)
    assert (high == 1.0) if won else (low == -1.0)
