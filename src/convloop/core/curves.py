"""How the learning rate moves over a training: pure functions of the share of steps done."""

import math
from collections.abc import Callable

_START_SHARE = 0.1  # of the full rate, where a warm-up begins


def constant(done_share: float, warmup_share: float) -> float:
    """Stay at the full rate."""
    return _warmup(done_share, warmup_share)


def one_cycle(done_share: float, warmup_share: float) -> float:
    """Go up, then down to 0 in a straight line: the triangle of short trainings (Smith, 2018)."""
    return min(_warmup(done_share, warmup_share), (1 - done_share) / (1 - warmup_share))


def cosine(done_share: float, warmup_share: float) -> float:
    """Go up, then down to 0 along half a cosine (Loshchilov and Hutter, 2017)."""
    past_share = max(0.0, done_share - warmup_share) / (1 - warmup_share)
    return min(_warmup(done_share, warmup_share), (1 + math.cos(math.pi * past_share)) / 2)


# From the share of steps done and the share that warms up, both 0 to 1, to the share of the full rate.
CURVES: dict[str, Callable[[float, float], float]] = {"constant": constant, "one_cycle": one_cycle, "cosine": cosine}


def _warmup(done_share: float, warmup_share: float) -> float:
    if done_share >= warmup_share:
        return 1.0
    return _START_SHARE + (1 - _START_SHARE) * done_share / warmup_share
