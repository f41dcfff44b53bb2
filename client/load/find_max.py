"""The highest rate that holds an objective, by trying rates."""

from collections.abc import Callable

RESOLUTION = 1.03  # between the highest rate that holds and the lowest that does not
STEPS = 14
FIRST = 0.8  # of the estimate
UP, DOWN = 1.25, 0.6
LOWEST = 0.02  # of the estimate: below it the objective is out of reach
CONFIRMATIONS = 4

Trial = Callable[[float], bool]


def bisect(estimate: float, holds: Trial) -> float | None:
    """The highest rate found to hold, None where none does: from `estimate` up or down, then halving by ratio.

    It ends within `RESOLUTION`, or after `STEPS` trials.
    """
    rate, good, bad = FIRST * estimate, 0.0, float("inf")
    for _ in range(STEPS):
        if holds(rate):
            good = rate
        else:
            bad = rate
        if bad <= good * RESOLUTION or bad < LOWEST * estimate:
            break
        rate = _next(good, bad)
    return good or None


def _next(good: float, bad: float) -> float:
    if bad == float("inf"):
        return good * UP
    return (good * bad) ** 0.5 if good else bad * DOWN


def confirm(rate: float, holds: Trial) -> float | None:
    """`rate`, or the first of some lower ones, in steps that double, that holds when tried again; None where none does.

    A rate that held once may have been lucky, and the luckier, the closer the search came to the limit.
    """
    for attempt in range(CONFIRMATIONS):
        lower = rate / float(RESOLUTION ** (2**attempt - 1))
        if holds(lower):
            return lower
    return None
