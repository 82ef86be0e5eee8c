"""How far seeds alone move a score."""

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from convloop.core.noise import measure_noise


def test_interval_of_the_mean_is_the_one_of_scipy() -> None:
    values = [0.91, 0.93, 0.92, 0.95, 0.90]

    noise = measure_noise(values)

    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (noise.low, noise.high) == pytest.approx((expected.low, expected.high))
    assert noise.count == 5
    assert noise.mean == pytest.approx(0.922)
    assert noise.deviation == pytest.approx(np.std(values, ddof=1))


def test_floor_holds_95_of_100_differences_of_two_seeds() -> None:
    """Simulate projects that measure five seeds and then compare two more."""
    random = np.random.default_rng(5)
    values = random.normal(0.9, 0.01, (20_000, 7))

    is_within = [abs(row[5] - row[6]) < measure_noise(row[:5]).floor for row in values[:4000]]

    assert np.mean(is_within) == pytest.approx(0.95, abs=0.012)
