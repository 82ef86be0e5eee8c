"""Reading a learning rate off a range test."""

import numpy as np
import pytest

from convloop.core.lr_range import _centred_mean, read_range, round_lr


def _losses(lrs_S: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """A loss that falls most steeply at 1e-3, as a logistic of the logarithm, and rises again above 1e-1."""
    logs_S = np.log10(lrs_S)
    clean_S = 2.3 - 1.5 / (1 + np.exp(-4 * (logs_S + 3))) + 3 / (1 + np.exp(-8 * (logs_S - 0)))
    return np.asarray(clean_S + noise * np.random.default_rng(3).normal(size=len(lrs_S)))


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_rate_is_where_the_loss_falls_fastest(noise: float) -> None:
    lrs_S = np.geomspace(1e-6, 10, 280)

    found = read_range(lrs_S, _losses(lrs_S, noise))

    assert abs(np.log10(found.steepest_lr) + 3) < 0.25
    assert abs(np.log10(found.least_loss_lr) + 1) < 0.6


def test_a_fall_from_a_peak_behind_the_least_loss_does_not_count() -> None:
    lrs_S = np.geomspace(1e-6, 10, 280)
    losses_S = _losses(lrs_S)
    losses_S[250:260] += 50

    assert abs(np.log10(read_range(lrs_S, losses_S).steepest_lr) + 3) < 0.25


def test_a_loss_that_never_falls_is_refused() -> None:
    lrs_S = np.geomspace(1e-6, 10, 100)

    with pytest.raises(ValueError) as error:
        read_range(lrs_S, np.linspace(2.3, 9.0, 100))

    assert str(error.value) == "the loss fell at no rate"


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(ValueError) as error:
        read_range(np.geomspace(1e-6, 1e-5, 19), np.linspace(2, 1, 19))

    assert str(error.value) == "only 19 steps were taken before the loss ran away"


def test_the_average_is_that_of_a_loop() -> None:
    values_S = np.random.default_rng(1).normal(size=30)
    expected = [
        np.mean(values_S[place - reach : place + reach + 1])
        for place in range(30)
        for reach in [min(4, place, 29 - place)]
    ]

    np.testing.assert_allclose(_centred_mean(values_S, 4), expected)


def test_rates_are_rounded_to_two_digits() -> None:
    assert round_lr(0.00031622) == 0.00032
