"""What a run under load came to, and whether it may be believed. hdrhistogram is needed here alone."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from numpy.typing import NDArray

from client.load.plan import Observed, Run

MICROSECOND = 1e-6
LONGEST = 3_600_000_000  # µs, which an hour has
DIGITS = 3

PERCENTILES = (50.0, 90.0, 99.0, 99.9)
CPU_LIMIT = 0.95  # of a core: a process that took more may itself have been what was slow

# A run is rejected when its requests were taken in hand later than this share of the latency, both at p99. Waiting for
# a core that the server works on costs a few milliseconds, which are forgiven; a stall is not, however slow the server.
LATE_SHARE = 0.10
LATE_FORGIVEN = 0.005
LATE_MOST = 0.050


class Histogram:
    """HDR histogram of `seconds`, from 1 µs to an hour. A percentile is off by 0.1 % at most, and so is the maximum."""

    def __init__(self, seconds: NDArray[np.float64]) -> None:
        self._counts = HdrHistogram(1, LONGEST, DIGITS)
        values, counts = np.unique(np.round(seconds / MICROSECOND).astype(np.int64), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if not self._counts.record_value(max(1, value), count):
                raise ValueError(f"A latency of {value * MICROSECOND:,.0f} s is too long to be one.")

    def percentile(self, percent: float) -> float:
        """In seconds; the value that at least `percent` of all do not exceed. hdrhistogram would round the rank."""
        count = max(1, self._counts.get_total_count())
        rank = math.ceil(count * percent / 100 - 1e-9)
        return float(self._counts.get_value_at_percentile(100 * rank / count)) * MICROSECOND

    def encoded(self) -> str:
        """Compressed, in base64, as every implementation of HdrHistogram reads it (V2)."""
        return bytes(self._counts.encode()).decode()


class Result:
    """One run. `due` and `latencies` are those of the requests that were answered, in order, in seconds.

    `failed` holds when each of the others failed, and how; `checked` and `wrong` the answers to goldens that were
    compared with eager's, and the sentences about those that differ; `cpu` the share of a core of each process.
    """

    def __init__(self, run: Run, observed: Sequence[Observed], checked: int, wrong: Sequence[str]) -> None:
        answered = np.array(sorted(pair for one in observed for pair in one.answered)).reshape(-1, 2)
        self.run, self.checked, self.wrong = run, checked, wrong
        self.due, self.latencies = answered[:, 0], answered[:, 1] - answered[:, 0]
        self.failed = sorted(pair for one in observed for pair in one.failed)
        self.lateness = np.array([late for one in observed for late in one.lateness])
        self.connections = sum(one.connections for one in observed)
        self.waited = sum(one.waited for one in observed)
        self.cpu = [one.cpu / one.seconds for one in observed]

    @cached_property
    def histogram(self) -> Histogram:
        return Histogram(self.latencies)

    @property
    def errors(self) -> dict[str, int]:
        return dict(Counter(kind for _, kind in self.failed).most_common())

    @property
    def offered(self) -> float | None:
        """Requests a second; None for a closed loop, which offers what is taken."""
        return None if self.run.due is None else len(self.run.due) / self.run.seconds

    @property
    def achieved(self) -> float:
        """Right answers a second, until the last one was there."""
        last = float((self.due + self.latencies).max(initial=0.0))
        return len(self.due) / max(last, 0.001 if self.ended_early else self.run.seconds)

    @property
    def ended_early(self) -> bool:
        """Whether requests were left unsent, since the run was lost."""
        return self.run.due is not None and len(self.lateness) < len(self.run.due)

    def percentile(self, percent: float) -> float:
        return self.histogram.percentile(percent)

    @property
    def late(self) -> float:
        """p99 of the lateness."""
        return float(np.percentile(self.lateness, 99)) if len(self.lateness) else 0.0

    @property
    def failure(self) -> str | None:
        """What the server did wrong; None where it did nothing wrong."""
        if self.wrong:
            return f"{len(self.wrong)} of {self.checked} sampled answers are wrong: {self.wrong[0]}"
        if self.failed:
            kinds = ", ".join(f"{count:,} × {kind}" for kind, count in self.errors.items())
            return f"{len(self.failed):,} of {len(self.failed) + len(self.due):,} requests failed: {kinds}."
        return None if len(self.due) else "Nothing was answered."

    @property
    def rejection(self) -> str | None:
        """Why the figures are the generator's and not the server's; None where they are the server's."""
        if not len(self.latencies):
            return None
        late, p99 = 1e3 * self.late, self.percentile(99)
        allowed = 1e3 * min(LATE_MOST, max(LATE_FORGIVEN, LATE_SHARE * p99))
        if late > allowed:
            return f"The generator itself was late, by {late:.1f} ms at p99; {allowed:.1f} ms would do."
        if self.run.due is None and max(self.cpu) > CPU_LIMIT:
            took = f"A process of the generator took {max(self.cpu):.0%} of a core"
            return f"{took}, so that it may have been what was slow."
        return None

    def misses(self, objective: float) -> str | None:
        """Why p99 is not within `objective` seconds of when requests were due; None where it is.

        A generator's lateness is part of it, so that an objective which holds, holds in spite of that.
        """
        p99 = self.percentile(99)
        if p99 <= objective and not self.ended_early:
            return None
        return f"p99 is {1e3 * p99:.1f} ms, over {1e3 * objective:g} ms."

    def as_json(self) -> dict[str, Any]:
        """The part of the report that every run has; `client.load` says what its fields are."""
        return {
            "offered_per_s": self.offered,
            "achieved_per_s": self.achieved,
            "seconds": self.run.seconds,
            "answered": len(self.due),
            "errors": self.errors,
            "checked": self.checked,
            "wrong": list(self.wrong),
            "latency_s": {f"p{p:g}": self.percentile(p) for p in PERCENTILES} | {"max": self.percentile(100)},
            "lateness_p99_s": self.late,
            "connections": self.connections,
            "waited_for_connection": self.waited,
            "generator_cpu": self.cpu,
            "rejection": self.rejection,
        }

    def by_second(self) -> list[dict[str, Any]]:
        """For each second: what was due, answered and failed in it, and the latencies of what was due in it."""
        ends, failed = self.due + self.latencies, np.array([when for when, _ in self.failed])
        count = math.ceil(max(self.run.seconds, ends.max(initial=0.0), failed.max(initial=0.0)))

        def counted(times: NDArray[np.float64]) -> list[int]:
            counts: list[int] = np.bincount(times.astype(int), minlength=count).tolist()
            return counts[:count]

        offered = [None] * count if self.run.due is None else counted(self.run.due)
        rows = []
        for second, counts in enumerate(zip(offered, counted(ends), counted(failed), strict=True)):
            mine = self.latencies[self.due.astype(int) == second]
            p50, p99 = np.percentile(mine, [50, 99]).tolist() if len(mine) else (None, None)
            names = ("offered", "answered", "failed")
            rows.append({"second": second, **dict(zip(names, counts, strict=True)), "p50_s": p50, "p99_s": p99})
        return rows
