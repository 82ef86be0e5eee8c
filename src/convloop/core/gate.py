"""Whether a candidate may take the champion's place."""

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

CONFIDENCE_SHARE = 0.95


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images: accuracy of the candidate less the champion's, with its interval."""

    image_count: int
    champion_accuracy: float
    gain_share: float
    low_share: float
    high_share: float


@dataclass(frozen=True)
class Verdict:
    """The gate's answer: a refusal is a result, with the reason in words."""

    promoted: bool
    reason: str
    comparison: Comparison | None = None


def decide(
    candidate_right_N: NDArray[np.bool_],
    champion_right_N: NDArray[np.bool_] | None,
    *,
    champion_version: str = "",
    min_accuracy_share: float,
    min_gain_share: float,
    max_loss_share: float,
) -> Verdict:
    """Judge the candidate on the test images: a floor first, then the same images against the champion.

    With a champion, the gain must exceed `min_gain_share` (so a tie is refused) and the lower end of its interval must
    stay above `-max_loss_share` (so few images or many disagreements are refused too).

    Args:
        candidate_right_N: for each test image, whether the candidate's answer is right.
        champion_right_N: the same images in the same order; None when nothing is promoted yet.
    """
    accuracy = float(candidate_right_N.mean())
    if accuracy < min_accuracy_share:
        return Verdict(
            False,
            f"Refused: test accuracy {accuracy:.3f}; register.min_accuracy_share asks for {min_accuracy_share}. "
            "Nothing was promoted.",
        )
    if champion_right_N is None:
        return Verdict(
            True, f"Promoted: test accuracy {accuracy:.3f}, floor {min_accuracy_share}; there was no champion yet."
        )
    comparison = compare(candidate_right_N, champion_right_N)
    facts = (
        f"test accuracy {accuracy:.3f} against {comparison.champion_accuracy:.3f} (champion, version "
        f"{champion_version}), 95 % interval {comparison.low_share:+.3f} to {comparison.high_share:+.3f}"
    )
    if comparison.gain_share <= min_gain_share:
        asked = f"register.min_gain_share asks for more than {min_gain_share:g}"
        return Verdict(False, f"Refused: {facts}; {asked}. Nothing was promoted.", comparison)
    if comparison.low_share < -max_loss_share:
        asked = f"register.max_loss_share allows {max_loss_share:g}"
        return Verdict(
            False,
            f"Refused: {facts}; {asked}, and {comparison.image_count:,} test images cannot rule out more. "
            "Nothing was promoted.",
            comparison,
        )
    return Verdict(True, f"Promoted: {facts}.", comparison)


def compare(candidate_right_N: NDArray[np.bool_], champion_right_N: NDArray[np.bool_]) -> Comparison:
    """Compare two models on the same images, with Tango's score interval for paired proportions.

    Source: T. Tango, Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design, Statistics in Medicine 17 (1998). It holds for few disagreements, where the usual interval is too short.
    """
    count = len(candidate_right_N)
    won = int((candidate_right_N & ~champion_right_N).sum())
    lost = int((~candidate_right_N & champion_right_N).sum())
    low, high = tango_interval(won, lost, count)
    return Comparison(count, float(champion_right_N.mean()), (won - lost) / count, low, high)


def tango_interval(won: int, lost: int, count: int) -> tuple[float, float]:
    """Bound the difference (won - lost) / count at CONFIDENCE_SHARE, from the counts of disagreeing pairs."""
    z = float(norm.ppf(0.5 + CONFIDENCE_SHARE / 2))
    gain = (won - lost) / count
    edge = 1 - 1e-12

    def distance(difference: float, side: float) -> float:
        return _tango_score(won, lost, count, difference) - side * z

    low = -1.0 if gain <= -edge else float(brentq(distance, -edge, gain, args=(1.0,)))
    high = 1.0 if gain >= edge else float(brentq(distance, gain, edge, args=(-1.0,)))
    return low, high


def _tango_score(won: int, lost: int, count: int, difference: float) -> float:
    """Standardise the gain under the hypothesis that the true difference is `difference`."""
    # The likelihood of the lost cell, restricted to that difference, is greatest at the larger root of a quadratic.
    linear = -won - lost + (2 * count - won + lost) * difference
    constant = -lost * difference * (1 - difference)
    lost_share = (sqrt(max(linear * linear - 8 * count * constant, 0.0)) - linear) / (4 * count)
    variance = count * (2 * lost_share + difference * (1 - difference))
    excess = won - lost - count * difference
    return (
        excess / sqrt(variance)
        if variance > 0
        else (float("inf") if excess > 0 else 0.0 if excess == 0 else -float("inf"))
    )
