"""What is asked for, what each process of the generator is told to send, and what it gives back."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.tools.limits import cores

MOST_REQUESTS = 5_000_000  # in one run; all are remembered until it is over
MOST_CONNECTIONS = 900  # of all processes together; below the 1,024 open files that systems allow by default
RATE_OF_A_PROCESS = 4_000  # a third of what one has been seen to send, in bodies of 77 KB
CONNECTIONS_OF_A_PROCESS = 32
OBJECTIVES = 20  # how many times the objective a trial must last, for a queue that grows to be seen
LEAD_SECONDS = 0.3  # from the decision to start a run to its start: each process has its share by then

Arrival = Literal["poisson", "constant"]


@dataclass(frozen=True)
class LoadOptions:
    """As on the command line, checked before anything is sent; `objective` is in seconds."""

    rate: float | None
    concurrency: int | None
    arrival: Arrival
    duration: float
    objective: float | None
    find_max: bool
    processes: int | None
    timeout: float
    seed: int

    def __post_init__(self) -> None:
        if (self.rate is not None) + (self.concurrency is not None) + self.find_max != 1:
            raise ValueError("Give one of --rate, --concurrency and --find-max.")
        if self.find_max and self.objective is None:
            raise ValueError("--find-max needs an objective: --slo-p99 MS")
        for name in ("rate", "duration", "timeout", "objective", "processes", "concurrency"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"--{'slo-p99' if name == 'objective' else name} must be above 0.")
        objective = self.objective or 0.0
        if (self.rate or 0) * self.duration > MOST_REQUESTS:
            raise ValueError(f"One run sends at most {MOST_REQUESTS:,} requests. Lower --rate or --duration.")
        if (self.concurrency or 0) > MOST_CONNECTIONS:
            raise ValueError(f"--concurrency must be at most {MOST_CONNECTIONS}.")
        if self.timeout <= objective:
            raise ValueError("--timeout must be longer than the objective of --slo-p99.")
        if self.find_max and self.duration < OBJECTIVES * objective:
            raise ValueError(f"For --slo-p99 {1e3 * objective:g} give --duration {OBJECTIVES * objective:g} or more.")

    @property
    def generators(self) -> int:
        """How many processes send: as many as the load takes, but half the cores are left to others."""
        if self.processes is not None:
            return self.processes
        half = max(1, cores() // 2)
        needed = (self.rate or 0) / RATE_OF_A_PROCESS + (self.concurrency or 0) / CONNECTIONS_OF_A_PROCESS
        return min(half, math.ceil(needed)) or half


def schedule(rate: float, seconds: float, arrival: Arrival, seed: int) -> NDArray[np.float64]:
    """The seconds after the start at which requests are due, ascending: `rate` · `seconds` of them, at least one.

    A Poisson process that is known to have n arrivals has them anywhere, each independent of the others: so two runs
    at one rate offer the same number, and their bursts differ by the seed alone.
    """
    count = max(1, round(rate * seconds))
    if arrival == "constant":
        return np.arange(count) / rate
    return np.sort(np.random.default_rng(seed).uniform(0, seconds, count))


@dataclass(frozen=True)
class Requests:
    """Whole requests, as bytes, which are sent in turn."""

    bodies: Sequence[bytes]
    goldens: Sequence[bytes] = ()  # of all that are sent, the first and each `golden_every`-th is the next of these
    golden_every: int = 1
    beginnings: Sequence[bytes] = ()  # of the right answers to `bodies`, where they are known

    def pick(self, number: int) -> tuple[bytes, int | None, bytes]:
        """The request with that number, which golden it is, if it is one, and how its answer must begin."""
        turn, rest = divmod(number, self.golden_every)
        if self.goldens and rest == 0:
            row = turn % len(self.goldens)
            return self.goldens[row], row, b""
        index = number % len(self.bodies)
        return self.bodies[index], None, self.beginnings[index] if self.beginnings else b""


@dataclass(frozen=True)
class Run:
    """What all processes do together, or one's share of it: the requests numbered `first`, `first + step`, …"""

    seconds: float
    timeout: float
    connections: int = MOST_CONNECTIONS  # the most that an open loop opens
    due: NDArray[np.float64] | None = None  # without, the loop is closed: each connection sends one after the other
    objective: float = math.inf  # the latency above which an answer is counted as slow
    start: float = 0.0  # in time.monotonic's seconds, which all processes share; all else counts from it
    first: int = 0
    step: int = 1
    most: int = 1 << 62  # which no number reaches

    def shares(self, count: int) -> "list[Run]":
        """One for each of `count` processes, or for as many as there are connections to share. They start soon."""
        count = min(count, self.connections)
        start = time.monotonic() + LEAD_SECONDS
        return [
            replace(
                self,
                start=start,
                connections=len(range(index, self.connections, count)),
                first=index,
                step=count,
                due=None if self.due is None else self.due[index::count],
            )
            for index in range(count)
        ]


@dataclass
class Observed:
    """What became of one process's requests; times in seconds after the start."""

    answered: list[tuple[float, float]] = field(default_factory=list)  # when each was due, and when its answer whole
    failed: list[tuple[float, str]] = field(default_factory=list)  # when a request had failed, and how
    goldens: list[tuple[int, dict[str, str], bytes]] = field(default_factory=list)  # row, headers, body of the answer
    lateness: list[float] = field(default_factory=list)  # from when each was due to when this process took it in hand
    slow: int = 0
    waited: int = 0  # how many, once taken in hand, found no connection free, nor leave to open one
    connections: int = 0
    cpu: float = 0.0  # the processor time that this process took
    seconds: float = 0.0

    @property
    def progress(self) -> tuple[int, int, int]:
        """How many were answered, failed, and were slow."""
        return len(self.answered), len(self.failed), self.slow
