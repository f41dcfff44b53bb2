"""What `client load` was asked for, checked before anything is sent."""

import math
from dataclasses import dataclass

from client.load.arrivals import Arrival
from client.load.generators import MOST_CONNECTIONS
from inference.tools.limits import cores

MOST_REQUESTS = 5_000_000  # in one run; all are remembered until it is over
RATE_OF_A_PROCESS = 4_000  # a third of what one has been seen to send, in bodies of 77 KB
CONNECTIONS_OF_A_PROCESS = 32
OBJECTIVES = 20  # how many times the objective a trial must last, for a queue that grows to be seen


@dataclass(frozen=True)
class LoadOptions:
    """As on the command line; `objective` is in seconds."""

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
        for name, value in {
            "--rate": self.rate,
            "--duration": self.duration,
            "--timeout": self.timeout,
            "--slo-p99": self.objective,
            "--processes": self.processes,
            "--concurrency": self.concurrency,
        }.items():
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0.")
        self._check_sizes()

    def _check_sizes(self) -> None:
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
        half = max(1, cores() // 2)
        if self.processes is not None:
            return self.processes
        if self.rate is not None:
            return min(half, math.ceil(self.rate / RATE_OF_A_PROCESS))
        if self.concurrency is not None:
            return min(half, math.ceil(self.concurrency / CONNECTIONS_OF_A_PROCESS))
        return half
