"""Latencies as an HDR histogram: to three digits from 1 µs to an hour. hdrhistogram is needed here alone."""

import math

import numpy as np
from hdrh.histogram import HdrHistogram  # type: ignore[import-untyped]
from numpy.typing import NDArray

MICROSECOND = 1e-6
DIGITS = 3
HIGHEST = 3_600_000_000  # µs


class Histogram:
    """Of `seconds`, in microseconds. A percentile is off by 0.1 % at most, and the maximum by as much."""

    def __init__(self, seconds: NDArray[np.float64]) -> None:
        self._counts = HdrHistogram(1, HIGHEST, DIGITS)
        values, counts = np.unique(np.round(seconds / MICROSECOND).astype(np.int64), return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if not self._counts.record_value(max(1, value), count):
                raise ValueError(f"A latency of {value * MICROSECOND:,.0f} s is too long to be one.")

    def percentile(self, percent: float) -> float:
        """In seconds; the value that at least `percent` of all do not exceed. hdrhistogram would round the rank."""
        count = max(1, self._counts.get_total_count())
        rank = math.ceil(count * percent / 100 - 1e-9)
        return float(self._counts.get_value_at_percentile(100 * rank / count)) * MICROSECOND

    @property
    def largest(self) -> float:
        return self.percentile(100)

    def encoded(self) -> str:
        """Compressed, in base64, as every implementation of HdrHistogram reads it (V2)."""
        return bytes(self._counts.encode()).decode()
