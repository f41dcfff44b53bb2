"""What Prometheus scrapes at /metrics: the workers' own metrics, TorchServe's word about each model, and the GPUs."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote
from wsgiref.simple_server import WSGIServer

import pynvml
import requests
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from serve.torchserve.record import NotServing, Server, read_keys, recall

MANAGEMENT_SECONDS = 3  # Prometheus waits 5 s for all of a scrape


class Exporter:
    """A running exporter; `port` is the one that it listens on. Stops at the end of a `with`."""

    def __init__(self, server: WSGIServer, thread: threading.Thread) -> None:
        self._server = server
        self._thread = thread
        self.port = server.server_port

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> "Exporter":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(run_directory: Path, server: Server, port: int, host: str = "127.0.0.1") -> Exporter:
    """Serves the metrics of `server`, which was launched with this run directory, from a thread of this process.

    Which versions there are is read anew at each scrape. Port 0 is any free one. Raises NotServing for one in use.
    """
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(Path(server.scratch, "metrics")))  # type: ignore[no-untyped-call]
    registry.register(Models(run_directory))
    registry.register(Gpus())
    try:
        return Exporter(*start_http_server(port, host, registry))
    except OSError as error:
        raise NotServing(
            f"Port {port} for metrics can't be used ({error.strerror}). Free it, and start again."
        ) from None


class Models(Collector):
    """Workers, queue and default version of each model, as TorchServe's management interface tells them at a scrape."""

    def __init__(self, run_directory: Path) -> None:
        self._run_directory = run_directory

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing is asked when this is registered: TorchServe may not have been started yet."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            models = _models(self._run_directory)
        except requests.RequestException:
            models = None
        up = models is not None
        yield GaugeMetricFamily("entering_torchserve_up", "1 when TorchServe told of its models, else 0.", value=up)
        of = ("model", "version")
        ready = GaugeMetricFamily("entering_workers_ready", "Workers that TorchServe calls READY.", labels=of)
        wanted = GaugeMetricFamily("entering_workers_wanted", "Workers that TorchServe was told to keep.", labels=of)
        queue = GaugeMetricFamily("entering_queue_length", "Requests that wait in TorchServe for a worker.", labels=of)
        default = GaugeMetricFamily("entering_default_version", "1 for the version without a name, else 0.", labels=of)
        for name, version, told in models or []:
            ready.add_metric((name, version), sum(worker["status"] == "READY" for worker in told["workers"]))
            wanted.add_metric((name, version), told["minWorkers"])
            queue.add_metric((name, version), told["jobQueueStatus"]["pendingRequests"])
            default.add_metric((name, version), told["default"])
        yield from (ready, wanted, queue, default)


# What a version is that should be there, but that TorchServe does not know.
GONE = {"workers": [], "minWorkers": 0, "jobQueueStatus": {"pendingRequests": 0}, "default": False}


def _models(run_directory: Path) -> list[tuple[str, str, dict[str, Any]]] | None:
    """Name, version and description of every version that should be served; None before TorchServe has its tokens.

    Raises RequestException when TorchServe does not answer, or refuses to.
    """
    server = recall(run_directory)
    keys = read_keys(run_directory)
    if server is None or keys is None:
        return None
    with requests.Session() as session:
        session.trust_env = False
        session.headers["Authorization"] = f"Bearer {keys['management']['key']}"
        url = f"http://127.0.0.1:{server.ports.management}/models"
        listed = _ask(session, f"{url}?limit=1000")["models"]
        defaults = {model["modelName"]: model["modelUrl"] for model in listed}
        return [
            (name, version, told)
            for name, versions in server.models.items()
            for version, told in _versions(session, f"{url}/{quote(name)}", versions, defaults.get(name)).items()
        ]


def _versions(
    session: requests.Session, url: str, recorded: Iterable[str], default: str | None
) -> dict[str, dict[str, Any]]:
    """By version. A model's list names the file of its default version, and each version has a file of its own."""
    told = _ask(session, f"{url}/all") if default else []
    known = {each["modelVersion"]: {**each, "default": each["modelUrl"] == default} for each in told}
    return dict.fromkeys(recorded, GONE) | known


def _ask(session: requests.Session, url: str) -> Any:
    response = session.get(url, timeout=MANAGEMENT_SECONDS)
    response.raise_for_status()
    return response.json()


class Gpus(Collector):
    """Memory and utilisation of each GPU that NVIDIA's driver shows here; without the driver, nothing."""

    def describe(self) -> Iterable[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return
        try:
            yield from _gpus()
        finally:
            pynvml.nvmlShutdown()


def _gpus() -> Iterator[GaugeMetricFamily]:
    """A figure that a GPU does not tell, such as the utilisation of one that is split, is left out."""
    used = GaugeMetricFamily("entering_gpu_memory_used_bytes", "Memory in use, by any process.", labels=["gpu"])
    total = GaugeMetricFamily("entering_gpu_memory_total_bytes", "Memory of the GPU.", labels=["gpu"])
    busy = GaugeMetricFamily("entering_gpu_utilization_ratio", "Share of time with a kernel running.", labels=["gpu"])
    for index in range(pynvml.nvmlDeviceGetCount()):
        gpu = pynvml.nvmlDeviceGetHandleByIndex(index)
        with suppress(pynvml.NVMLError_NotSupported):
            memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
            used.add_metric([str(index)], memory.used)
            total.add_metric([str(index)], memory.total)
        with suppress(pynvml.NVMLError_NotSupported):
            busy.add_metric([str(index)], pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100)
    yield from (used, total, busy)
