"""When the requests of an open loop are due: decided before the first is sent, whatever the server does."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Arrival = Literal["poisson", "constant"]


def schedule(rate: float, seconds: float, arrival: Arrival, seed: int) -> NDArray[np.float64]:
    """The seconds after the start at which requests are due, ascending: `rate` · `seconds` of them, at least one.

    A Poisson process that is known to have n arrivals has them anywhere, each independent of the others: so two runs
    at one rate offer the same number, and their bursts differ by the seed alone.
    """
    count = max(1, round(rate * seconds))
    if arrival == "constant":
        return np.arange(count) / rate
    return np.sort(np.random.default_rng(seed).uniform(0, seconds, count))
