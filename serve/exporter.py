"""What Prometheus scrapes at /metrics: the workers' own metrics, the host's word about each model, and the GPUs."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pynvml
import requests
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serve.host import HOST
from serve.record import NotServing, Server, recall

HOST_SECONDS = 3  # Prometheus waits 5 s for all of a scrape


@contextmanager
def exporting(server: Server, port: int) -> Iterator[int]:
    """Serves the metrics of a started server from a thread of this process, and gives the port: 0 is any free one.

    Which versions there are is read anew at each scrape. Raises NotServing for a port in use.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(Path(server.scratch, "metrics")))  # type: ignore[no-untyped-call]
    registry.register(Figures(server.run_directory))
    try:
        listening, thread = start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        words = f"Port {port} for metrics can't be used ({error.strerror}). Free it, and start again."
        raise NotServing(words) from None
    try:
        yield listening.server_port
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


@dataclass(frozen=True)
class Figures(Collector):
    """What is asked for at each scrape: the host about its models, and NVIDIA's driver about the GPUs."""

    run_directory: Path

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield from self._models()
        yield from self._gpus()

    def _models(self) -> Iterator[GaugeMetricFamily]:
        """Workers, queue and default version of each model."""
        server, described = recall(self.run_directory), None
        if server and (running := HOST.connect(server, HOST_SECONDS)):  # else it can't be asked yet
            with running.session, suppress(NotServing, requests.RequestException):
                described = running.described()
        up = described is not None
        yield GaugeMetricFamily("entering_torchserve_up", "1 when TorchServe told of its models, else 0.", value=up)
        of = ("model", "version")
        ready = GaugeMetricFamily("entering_workers_ready", "Workers that TorchServe calls READY.", labels=of)
        wanted = GaugeMetricFamily("entering_workers_wanted", "Workers that TorchServe was told to keep.", labels=of)
        queue = GaugeMetricFamily("entering_queue_length", "Requests that wait in TorchServe for a worker.", labels=of)
        default = GaugeMetricFamily("entering_default_version", "1 for the version without a name, else 0.", labels=of)
        for one, is_default in described or []:
            labels = (one.model, one.version)
            ready.add_metric(labels, one.ready_workers)
            wanted.add_metric(labels, one.min_workers)
            queue.add_metric(labels, one.queued)
            default.add_metric(labels, is_default)
        yield from (ready, wanted, queue, default)

    def _gpus(self) -> Iterator[GaugeMetricFamily]:
        """Memory and utilisation of each GPU that the driver shows here; without the driver, nothing.

        A figure that a GPU does not tell, such as the utilisation of one that is split, is left out.
        """
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        of = ("gpu",)
        used = GaugeMetricFamily("entering_gpu_memory_used_bytes", "Memory in use, by any process.", labels=of)
        total = GaugeMetricFamily("entering_gpu_memory_total_bytes", "Memory of the GPU.", labels=of)
        busy = GaugeMetricFamily("entering_gpu_utilization_ratio", "Share of time with a kernel running.", labels=of)
        try:
            for index in range(pynvml.nvmlDeviceGetCount()):
                gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
                with suppress(pynvml.NVMLError_NotSupported):
                    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
                    used.add_metric([str(index)], memory.used)
                    total.add_metric([str(index)], memory.total)
                with suppress(pynvml.NVMLError_NotSupported):
                    busy.add_metric([str(index)], pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
        finally:
            pynvml.nvmlShutdown()
        yield from (used, total, busy)
