"""The learning rate over a training."""

import pytest

from convloop.config import CURVE_NAMES
from convloop.core.curves import CURVES


def _points(name: str, warmup_share: float) -> list[float]:
    return [CURVES[name](tenth / 10, warmup_share) for tenth in range(11)]


def test_the_params_know_every_curve() -> None:
    assert tuple(CURVES) == CURVE_NAMES


def test_constant_stays() -> None:
    assert _points("constant", 0.0) == [1.0] * 11


def test_one_cycle_rises_in_its_warm_up_and_falls_to_0_in_a_straight_line() -> None:
    expected = [0.1, 0.55, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0.0]
    assert _points("one_cycle", 0.2) == pytest.approx(expected)


def test_cosine_falls_to_0_along_half_a_cosine() -> None:
    expected = [1.0, 0.975528, 0.904508, 0.793893, 0.654508, 0.5, 0.345492, 0.206107, 0.095492, 0.024472, 0.0]
    assert _points("cosine", 0.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_a_warm_up_begins_at_a_tenth_and_ends_at_the_full_rate(name: str) -> None:
    assert [CURVES[name](share, 0.4) for share in (0.0, 0.2, 0.4)] == pytest.approx([0.1, 0.55, 1.0])
