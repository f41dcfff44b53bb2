"""What a worker counts and times, for Prometheus. docs/metrics.md says what each metric is for.

With PROMETHEUS_MULTIPROC_DIR in its environment when `prometheus_client` is imported, as the server starts its workers,
a process keeps its values in files there, for `serve/exporter.py` to add up. Else they are this process's own.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Histogram

from inference.messages import Answer

ARRIVAL = "X-Request-Start"  # header: when the request came to the gateway, Unix time in whole microseconds
LONGEST_SECONDS = 3600  # no request waits longer, so an earlier arrival is not the gateway's

# Seconds: ten steps a decade (Renard's R10 series) from 1 to 100 ms, where a quantile is then right to a quarter; five
# a decade above, to the 60 s at which a request has failed anyway.
SECONDS = (
    *(0.0005, 0.001, 0.00125, 0.0016, 0.002, 0.0025, 0.00315, 0.004, 0.005, 0.0063, 0.008),
    *(0.01, 0.0125, 0.016, 0.02, 0.025, 0.0315, 0.04, 0.05, 0.063, 0.08),
    *(0.1, 0.16, 0.25, 0.4, 0.63, 1, 1.6, 2.5, 4, 6.3, 10, 16, 25, 40, 60),
)
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The metrics of one worker, whose model, version and categories are known: nothing is looked up for a request."""

    def __init__(self, model: str, version: str, categories: Iterable[str]) -> None:
        self.registry = CollectorRegistry()
        of = {"model": model, "version": version}
        counter = partial(Counter, registry=self.registry)
        histogram = partial(Histogram, labelnames=of, buckets=SECONDS, registry=self.registry)
        starts = counter("entering_worker_starts_total", "Workers that answered their goldens right.", of)
        requests = counter("entering_requests_total", "Requests answered by a handler.", (*of, "status"))
        predictions = counter("entering_predictions_total", "Rows answered with this best label.", (*of, "label"))
        request = histogram("entering_request_seconds", "From a request's arrival at the gateway to its answer.")
        queue = histogram("entering_queue_seconds", "From a request's arrival at the gateway to the handler's start.")
        handler = histogram("entering_handler_seconds", "A handler's time for one batch.")
        size = histogram("entering_batch_size", "Requests that a handler was given at once.", buckets=REQUESTS)
        self.starts, self.request, self.queue = starts.labels(**of), request.labels(**of), queue.labels(**of)
        self.handler, self.size = handler.labels(**of), size.labels(**of)
        self.statuses = {status: requests.labels(**of, status=status) for status in (200, 400, 500, 503)}
        self.rows = {name: predictions.labels(**of, label=name) for name in categories}

    def started(self) -> None:
        """The worker is about to be READY. More starts than workers that are wanted: some were started again."""
        self.starts.inc()

    def answered(self, arrivals: Sequence[str], answers: Sequence[Answer], start: float, seconds: float) -> None:
        """One batch, which the handler began at Unix time `start`. `arrivals` are the headers, "" for none."""
        self.handler.observe(seconds)
        self.size.observe(len(answers))
        for status, count in Tally(answer.status for answer in answers).items():
            self.statuses[status].inc(count)
        for name, count in Tally(name for answer in answers for name in answer.categories).items():
            self.rows[name].inc(count)
        for arrival in arrivals:
            if not (arrival.isascii() and arrival.isdigit() and len(arrival) <= 16):
                continue  # no gateway has sent that
            waited = start - int(arrival) / 1e6
            if 0 <= waited <= LONGEST_SECONDS:
                self.queue.observe(waited)
                self.request.observe(waited + seconds)
