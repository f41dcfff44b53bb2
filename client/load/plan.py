"""What a process of the generator is told, and what it gives back."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Requests:
    """Whole requests, as bytes. Of all that are sent, each `golden_every`-th is the next golden: the first is one."""

    bodies: Sequence[bytes]
    goldens: Sequence[bytes]
    golden_every: int

    def pick(self, number: int) -> tuple[bytes, int | None]:
        """The request with that number, and which golden it is, if it is one."""
        turn, rest = divmod(number, self.golden_every)
        if rest == 0:
            row = turn % len(self.goldens)
            return self.goldens[row], row
        return self.bodies[number % len(self.bodies)], None


@dataclass(frozen=True)
class Plan:
    """One process's share of a run: the requests numbered `first`, `first + step`, …

    No number reaches `most`. `start` is in time.monotonic's seconds, which all processes share, and all else counts
    from it. With `due` the loop is open, and `connections` is the most that it opens; without, each of them sends one
    request after the other. `objective` is the latency above which an answer is counted as slow.
    """

    start: float
    seconds: float
    connections: int
    timeout: float
    first: int = 0
    step: int = 1
    most: int = 1 << 62
    due: NDArray[np.float64] | None = None
    objective: float = float("inf")


@dataclass
class Seen:
    """What became of the requests; times in seconds after the start.

    `answered` holds when each was due and when its answer was whole; `failed` when a request had failed, and how;
    `goldens` the row, head and body of each answer to a golden; `lateness` how long after it was due each request was
    taken in hand, which is this process's own doing; `waited` how many then found no connection free, nor leave to open
    one. `cpu` is the share of a core that this process took.
    """

    answered: list[tuple[float, float]] = field(default_factory=list)
    failed: list[tuple[float, str]] = field(default_factory=list)
    goldens: list[tuple[int, bytes, bytes]] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    slow: int = 0
    waited: int = 0
    connections: int = 0
    cpu: float = 0.0

    @property
    def progress(self) -> tuple[int, int, int]:
        """How many were answered, failed, and were slow."""
        return len(self.answered), len(self.failed), self.slow
