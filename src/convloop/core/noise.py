"""How far trainings lie apart that differ in nothing but their seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import numpy as np
from scipy.stats import t

CONFIDENCE_SHARE = 0.95
FILE = Path("work") / "tune" / "repeats.json"  # of the last repeats in this project


@dataclass(frozen=True)
class Noise:
    """Mean and standard deviation of repeats, and what follows from them at 95 %.

    `low` to `high` holds the mean of all seeds (Student's t). Two single trainings lie closer than `floor` unless they
    differ in more than their seed.
    """

    count: int
    mean: float
    deviation: float
    low: float
    high: float
    floor: float


def measure_noise(values: Sequence[float]) -> Noise:
    """Estimate the noise of seeds from at least two repeats.

    The floor is the prediction interval of the difference of two normal values whose deviation was estimated from
    `count` repeats: t of count - 1 degrees of freedom, times the square root of 2, times the deviation.
    """
    count = len(values)
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    quantile = float(t.ppf((1 + CONFIDENCE_SHARE) / 2, count - 1))
    reach = quantile * deviation / sqrt(count)
    return Noise(count, mean, deviation, mean - reach, mean + reach, quantile * sqrt(2) * deviation)
