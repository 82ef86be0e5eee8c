"""Read a learning rate off a range test (Smith 2017, Cyclical Learning Rates for Training Neural Networks)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SMOOTHED_SHARE = 0.1  # of all steps, averaged around each
_SKIPPED_SHARE = 0.05  # at each end, where the slope of an average says little


@dataclass(frozen=True)
class LrRange:
    """What a range test found: where the loss falls fastest, and where it is least."""

    steepest_lr: float
    least_loss_lr: float
    smooth_losses_S: NDArray[np.float64]


def read_range(lrs_S: NDArray[np.float64], losses_S: NDArray[np.float64]) -> LrRange:
    """Find the rate at which the smoothed loss falls fastest over the logarithm of the rate.

    The average is centred, so unlike a running one it moves no feature to higher rates. Rates past the least loss do not
    count: what falls there comes down from a peak.

    Args:
        lrs_S: rates of the steps, a geometric ramp; `losses_S` their losses, finite.

    Raises:
        ValueError: too few steps, or the loss fell at no rate.
    """
    count = len(lrs_S)
    if count < 20:
        raise ValueError(f"only {count} steps were taken before the loss ran away")
    smooth_S = _centred_mean(losses_S, max(1, round(count * _SMOOTHED_SHARE / 2)))
    slopes_S = np.gradient(smooth_S, np.log(lrs_S))
    skipped = max(1, round(count * _SKIPPED_SHARE))
    least = int(np.argmin(smooth_S))
    if least <= skipped or slopes_S[skipped : least + 1].min() >= 0:
        raise ValueError("the loss fell at no rate")
    steepest = skipped + int(np.argmin(slopes_S[skipped : least + 1]))
    return LrRange(float(lrs_S[steepest]), float(lrs_S[least]), smooth_S)


def _centred_mean(values_S: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Average each value with those up to `reach` before and behind it, as many as there are on both sides."""
    sums_S = np.concatenate([[0.0], np.cumsum(values_S)])
    places_S = np.arange(len(values_S))
    own_reach_S = np.minimum(reach, np.minimum(places_S, places_S[::-1]))
    mean_S: NDArray[np.float64] = (sums_S[places_S + own_reach_S + 1] - sums_S[places_S - own_reach_S]) / (
        2 * own_reach_S + 1
    )
    return mean_S


def round_lr(lr: float) -> float:
    """Round to two digits: a range test knows no more."""
    return float(f"{lr:.1e}")
