"""What workers count: what is observed of which request, and what is left of it when a worker's process ends."""

import os
import signal
import subprocess
import sys
import time
import warnings
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from inference.inputs import CPU
from inference.inputs.image import ImageInput
from inference.messages import Answer, Request
from inference.metrics import ARRIVAL, LONGEST_SECONDS, SECONDS, Metrics
from inference.predictor import Predictor
from inference.protocol import ATTESTED, JSON, NPY
from inference.runtime import Loaded
from serve.torchserve.handler import Handler
from tests.contracts import classifier

ROOT = Path(__file__).parents[2]
CONTRACT = classifier("letters", ImageInput(height=8, width=8, channels=1), ("a", "b"), (0.5,), (0.5,), max_batch=4)
ATTESTATION = {field: f"the {field}" for field in ATTESTED if field != "batch_size"}
OF = {"model": "letters-eager", "version": "2.0"}
NOW = 1_800_000_000.0


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("letters-eager", "2.0", CONTRACT.output.categories)


@pytest.fixture
def handler(metrics: Metrics) -> Handler:
    """Of a model whose logits are an image's first two pixels."""
    loaded = Loaded(
        lambda rows: rows.reshape(len(rows), -1)[:, :2].astype(np.float32), CONTRACT, "w" * 64, "a test", "cpu"
    )
    made = Handler()
    made.predictor, made.metrics = Predictor(loaded, ATTESTATION, CONTRACT.input.decoder(CPU, "cpu")), metrics
    return made


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, OF | labels)


def microseconds(seconds: float) -> str:
    return str(round(seconds * 1e6))


def png(*first: int) -> bytes:
    pixels = np.zeros(64, np.uint8)
    pixels[: len(first)] = first
    stream = BytesIO()
    Image.fromarray(pixels.reshape(8, 8)).save(stream, "PNG")
    return stream.getvalue()


def npy(array: Any) -> bytes:
    stream = BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def handle(handler: Handler, bodies: list[bytes], headers: dict[str, str]) -> list[bytes]:
    """One batch, with TorchServe's own context."""
    with warnings.catch_warnings(action="ignore", category=ResourceWarning):  # its import leaves a file open
        from ts.context import Context, RequestProcessor
    context = Context("letters-eager", "", {}, len(bodies), None, "")
    context.request_processor = [RequestProcessor({"body": {"content-type": ""}, **headers}) for _ in bodies]
    return handler.handle([{"body": bytearray(body)} for body in bodies], context)


def test_a_batch_is_counted_by_status_and_label_and_observed_once(metrics: Metrics) -> None:
    answers = [Answer(200, JSON, b"", categories=("a", "b", "a")), Answer(200, JSON, b"", categories=("b",))]
    answers += [Answer(400, JSON, b""), Answer(200, NPY, b"")]
    metrics.answered([""] * 4, answers, NOW, 0.003)
    counted = [value(metrics, "entering_requests_total", status=status) for status in ("200", "400", "500")]
    assert counted == [3, 1, 0]
    assert [value(metrics, "entering_predictions_total", label=label) for label in "ab"] == [2, 2]
    assert value(metrics, "entering_handler_seconds_count") == 1
    assert value(metrics, "entering_handler_seconds_sum") == 0.003
    assert value(metrics, "entering_batch_size_sum") == 4
    assert value(metrics, "entering_batch_size_bucket", le="4.0") == 1
    assert value(metrics, "entering_batch_size_bucket", le="2.0") == 0


def test_a_request_has_waited_since_it_came_to_the_gateway_and_is_answered_when_its_batch_is(metrics: Metrics) -> None:
    arrivals = [microseconds(NOW - 0.004), "", microseconds(NOW - 2)]
    metrics.answered(arrivals, [Answer(200, JSON, b"")] * 3, NOW, 0.5)
    assert value(metrics, "entering_queue_seconds_count") == 2
    assert value(metrics, "entering_queue_seconds_sum") == pytest.approx(2.004)
    assert value(metrics, "entering_request_seconds_count") == 2
    assert value(metrics, "entering_request_seconds_sum") == pytest.approx(3.004)
    assert value(metrics, "entering_request_seconds_bucket", le="0.63") == 1


@pytest.mark.parametrize(
    "arrival",
    [
        "",
        "yesterday",
        "-5",
        "1.8e15",
        "１８００００００００００００００",
        "²",
        "0",
        "9" * 5000,
        microseconds(NOW + 1),
        microseconds(NOW - LONGEST_SECONDS - 1),
    ],
)
def test_an_arrival_that_no_gateway_has_sent_is_not_observed(metrics: Metrics, arrival: str) -> None:
    metrics.answered([arrival], [Answer(200, JSON, b"")], NOW, 0.5)
    assert value(metrics, "entering_queue_seconds_count") == 0
    assert value(metrics, "entering_request_seconds_count") == 0
    assert value(metrics, "entering_requests_total", status="200") == 1


def test_the_handler_counts_what_it_answers_by_the_label_that_the_answer_names(
    handler: Handler, metrics: Metrics
) -> None:
    arrival = microseconds(time.time() - 5)
    answers = handle(handler, [png(0, 9), png(9, 0), b"no image", png(1, 2)], {ARRIVAL.lower(): arrival})
    assert len(answers) == 4
    assert [value(metrics, "entering_predictions_total", label=label) for label in "ab"] == [1, 2]
    assert value(metrics, "entering_requests_total", status="400") == 1
    assert value(metrics, "entering_batch_size_sum") == 4
    assert value(metrics, "entering_queue_seconds_count") == 4
    assert value(metrics, "entering_queue_seconds_bucket", le="4.0") == 0
    assert value(metrics, "entering_queue_seconds_bucket", le="60.0") == 4


def test_a_field_of_a_form_is_no_arrival(handler: Handler, metrics: Metrics) -> None:
    handle(handler, [png(1)], {ARRIVAL: {"content-type": "text/plain"}})  # type: ignore[dict-item]
    assert value(metrics, "entering_requests_total", status="200") == 1
    assert value(metrics, "entering_queue_seconds_count") == 0


def test_only_answers_that_name_labels_have_labels(handler: Handler) -> None:
    several = npy(np.stack([np.frombuffer(bytes([0, 5, *[0] * 62]), np.uint8).reshape(8, 8, 1)] * 3))
    requests = [
        Request(png(9), {"x-top-k": "1"}),
        Request(several, {"content-type": NPY}),
        Request(png(9), {"accept": NPY}),
        Request(b"", describe=True),
        Request(b"bad"),
    ]
    assert [answer.categories for answer in handler.predictor.answer(requests)] == [("a",), ("b", "b", "b"), (), (), ()]


def test_a_model_that_answers_no_number_is_counted_as_a_failure_without_a_label(
    handler: Handler, metrics: Metrics
) -> None:
    handler.predictor.loaded = Loaded(
        lambda rows: np.full((len(rows), 2), np.nan, np.float32), CONTRACT, "w" * 64, "a test", "cpu"
    )
    handle(handler, [png(1)], {})
    assert value(metrics, "entering_requests_total", status="500") == 1
    assert [value(metrics, "entering_predictions_total", label=label) for label in "ab"] == [0, 0]


def test_quantiles_mean_something_from_1_ms_to_60_s() -> None:
    """The true value lies within the bucket, so a quantile is off by less than the bucket's width."""
    ratios = {low: high / low for low, high in pairwise(SECONDS) if low >= 0.001}
    assert SECONDS[-1] == 60
    assert max(ratio for low, ratio in ratios.items() if low < 0.08) < 1.29
    assert max(ratios.values()) < 1.61


def test_two_metrics_of_one_process_do_not_share_their_counts(metrics: Metrics) -> None:
    other = Metrics("letters-eager", "2.0", CONTRACT.output.categories)
    metrics.started()
    assert value(metrics, "entering_worker_starts_total") == 1
    assert value(other, "entering_worker_starts_total") == 0


WORKER = """
import os, sys, time
pid, version, starts = sys.argv[1:]
if pid != "own":
    os.getpid = lambda: int(pid)
from inference.metrics import Metrics
from inference.messages import Answer
metrics = Metrics("letters-eager", version, ["a", "b"])
for _ in range(int(starts)):
    metrics.started()
metrics.answered(["", ""], [Answer(200, "", b"", categories=("a",))] * 2, time.time(), 0.003)
print("counted", flush=True)
sys.stdin.read()
"""


def work(folder: Path, pid: str, version: str, starts: int) -> "subprocess.Popen[str]":
    """A worker's process, which has counted. It runs until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, pid, version, str(starts)],
        cwd=ROOT,
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "counted\n"
    return process


def added_up(folder: Path, name: str, **labels: str) -> float | None:
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
    return registry.get_sample_value(name, OF | labels)


def test_what_all_workers_have_counted_is_added_up_also_of_those_that_were_killed(tmp_path: Path) -> None:
    first, second, other = (
        work(tmp_path, "own", "2.0", 1),
        work(tmp_path, "own", "2.0", 1),
        work(tmp_path, "own", "1.0", 5),
    )
    first.send_signal(signal.SIGKILL)
    for process in (first, second, other):
        process.communicate()
    assert first.returncode == -signal.SIGKILL
    assert added_up(tmp_path, "entering_worker_starts_total") == 2
    assert added_up(tmp_path, "entering_worker_starts_total", version="1.0") == 5
    assert added_up(tmp_path, "entering_predictions_total", label="a") == 4
    assert added_up(tmp_path, "entering_handler_seconds_bucket", le="0.00315") == 2
    assert added_up(tmp_path, "entering_batch_size_sum") == 4


def test_a_worker_that_gets_the_process_id_of_a_dead_one_counts_on(tmp_path: Path) -> None:
    for version, starts in (("2.0", 1), ("1.0", 3), ("2.0", 1)):
        work(tmp_path, "77", version, starts).communicate()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counter_77.db", "histogram_77.db"]
    assert added_up(tmp_path, "entering_worker_starts_total") == 2
    assert added_up(tmp_path, "entering_worker_starts_total", version="1.0") == 3
    assert added_up(tmp_path, "entering_batch_size_count") == 2
