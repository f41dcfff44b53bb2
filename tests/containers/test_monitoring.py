"""A real Prometheus with this project's configuration: it finds what the dashboard shows, and its alerts fire."""

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from benchmarks import dashboard
from benchmarks.dashboard import Query, Sample
from tests.containers.stack import MODEL, Stack
from tests.workspace import ROOT, free_port

HERE = Path(__file__).parent
MONITORING = ROOT / "serve" / "monitoring"
METRICS_PORT = 9100
JOBS = {"serving", "gateway", "torchserve"}
SECONDS = 90

# A call to TorchServe's own management, from inside the container, where alone it can be reached. It is not waited for:
# TorchServe may answer 500 to a call that waits for a worker's end, when the worker has ended as it should.
SCALE = """
import json, urllib.request
key = json.load(open("/srv/.serve/key_file.json"))["management"]["key"]
url = "http://127.0.0.1:9081/models/{model}/1.0?min_worker={workers}&max_worker={workers}&synchronous=false"
call = urllib.request.Request(url, method="PUT", headers=dict(Authorization="Bearer " + key))
urllib.request.urlopen(call).read()
"""


def tool(name: str) -> str:
    """Fails, rather than skips, where Prometheus isn't installed: who runs these tests wants them to have run."""
    found = shutil.which(name)
    if not found:
        pytest.fail(f"These tests need {name}. Install it (Debian: apt-get install prometheus), or run .ci/containers.")
    return found


def promtool(*command: str, said: str = "") -> None:
    done = subprocess.run(
        [tool("promtool"), *command], cwd=HERE, input=said, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def watching(stack: Stack, folder: Path) -> Iterator[str]:
    """The address of a Prometheus with the project's files, but for the target, that has scraped all of the service."""
    target = f"{stack.address('metrics')}:{METRICS_PORT}"
    config = (MONITORING / "prometheus.yml").read_text()
    assert config.count("serve.metrics:9100") == 1
    (folder / "prometheus.yml").write_text(config.replace("serve.metrics:9100", target))
    shutil.copy(MONITORING / "alerts.yml", folder)
    address = f"127.0.0.1:{free_port()}"
    command = [tool("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--storage.tsdb.path={folder / 'data'}"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        url = f"http://{address}"
        until(lambda: {one.labels["job"] for one in ask(url, "up") if one.value} == JOBS, "every job is scraped")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def ask(url: str, expression: str) -> list[Sample]:
    """Nothing, until Prometheus listens and is ready."""
    try:
        return dashboard.ask(url, expression)
    except requests.exceptions.RequestException:
        return []


def until(done: Any, what: str) -> None:
    deadline = time.monotonic() + SECONDS
    while not done():
        assert time.monotonic() < deadline, f"not after {SECONDS} s: {what}"
        time.sleep(0.5)


@contextmanager
def load(stack: Stack, body: bytes) -> Iterator[None]:
    """Requests one after the other by each of four clients, to every model; one in ten has no image."""
    ended, token = threading.Event(), stack.token()
    models = [f"digits-{runtime}" for runtime in ("eager", "torchscript", "onnx", "aoti")]

    def work(model: str) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            stack.post(body if turn % 10 else b"no image", token, f"predictions/{model}")

    threads = [threading.Thread(target=work, args=(model,)) for model in models]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.fixture(scope="module")
def prometheus(service: Stack, seven: bytes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Under load for as long as the tests of this module take, and after a short load at the first of them."""
    with load(service, seven), watching(service, tmp_path_factory.mktemp("prometheus")) as url:
        time.sleep(15)  # three scrapes: a rate has two ends
        yield url


def test_the_configuration_is_one() -> None:
    promtool("check", "config", str(MONITORING / "prometheus.yml"))


def test_the_alerts_are_rules_and_nothing_of_them_is_double() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(MONITORING / "alerts.yml"))


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", "alerts.test.yml")


def test_every_alert_has_such_a_test() -> None:
    tried = yaml.safe_load((HERE / "alerts.test.yml").read_text())["tests"]
    for rule in alerts():
        assert {"eval_time": "20m", "alertname": rule["alert"], "exp_alerts": []} in tried[0]["alert_rule_test"]
        assert any(f'"{rule["alert"]}"' in str(test.get("promql_expr_test")) for test in tried[1:])


def test_our_metrics_are_named_as_prometheus_wants_them(service: Stack, prometheus: str) -> None:
    assert prometheus
    text = requests.get(f"http://{service.address('metrics')}:{METRICS_PORT}/metrics", timeout=10).text
    assert "entering_request_seconds_bucket" in text
    promtool("check", "metrics", said=text)


@pytest.mark.parametrize(
    "query", dashboard.queries(), ids=lambda query: f"{query.panel} {query.legend}".replace("{", "").replace("}", "")
)
def test_every_query_of_the_dashboard_returns_data(prometheus: str, query: Query) -> None:
    samples = dashboard.ask(prometheus, query.filled)
    if "entering_gpu" in query.expression:
        return  # it was evaluated; there is data only where there is a GPU
    assert any(sample.value >= 0 for sample in samples), f"{query.filled} gave {samples}"
    for sample in samples:
        for label in sample.labels:
            assert f"{{{{{label}}}}}" in query.legend or label in ("__name__", "instance", "job")


def test_the_figures_are_those_of_the_load(prometheus: str) -> None:
    """Every tenth request was refused, all others were of one image, and each came through the gateway."""

    def one(expression: str) -> float:
        [sample] = dashboard.ask(prometheus, expression)
        return sample.value

    of = f'{{model="{MODEL}"}}[1m]'
    labels = f"sum by (label) (increase(entering_predictions_total{of}))"
    assert one(f"max({labels}) / sum({labels})") == pytest.approx(1)
    responses = f'haproxy_backend_http_responses_total{{proxy="{MODEL}"'
    bad = one(f'sum(rate({responses}, code="4xx"}}[1m]))') / one(f"sum(rate({responses}}}[1m]))")
    assert bad == pytest.approx(0.1, abs=0.02)
    assert one(f"sum(increase(entering_request_seconds_count{of}))") > 10
    assert 0 < one(f"sum(rate(entering_queue_seconds_sum{of})) / sum(rate(entering_request_seconds_sum{of}))") < 1


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_is_evaluated_and_none_fires_while_all_is_well(prometheus: str, rule: dict[str, Any]) -> None:
    assert dashboard.ask(prometheus, rule["expr"]) == []
    [group] = requests.get(f"{prometheus}/api/v1/rules", timeout=10).json()["data"]["groups"]
    [loaded] = [one for one in group["rules"] if one["name"] == rule["alert"]]
    assert (loaded["health"], loaded["state"]) == ("ok", "inactive")
    compared = re.split(" > | == ", rule["expr"])[0]
    assert dashboard.ask(prometheus, compared), f"{compared} has no value that could be too high or too low"


def test_the_table_for_the_docs_has_a_row_for_each_query(prometheus: str, capsys: pytest.CaptureFixture[str]) -> None:
    dashboard.main(prometheus)
    rows = capsys.readouterr().out.splitlines()[2:]
    assert len(rows) == len(dashboard.queries())
    assert {row.rpartition(" | ")[2] for row in rows if "entering_gpu" not in row} - {"nothing |"}


def test_without_workers_the_alert_fires_and_with_them_it_ends(own: Stack, tmp_path: Path) -> None:
    own.up()
    firing = f'ALERTS{{alertname="NoReadyWorker", alertstate="firing", model="{MODEL}", severity="critical"}}'
    with watching(own, tmp_path) as url:
        assert not ask(url, firing)
        own.python(SCALE.format(model=MODEL, workers=0))
        until(lambda: ask(url, firing), "NoReadyWorker fires")
        alerts = requests.get(f"{url}/api/v1/alerts", timeout=10).json()["data"]["alerts"]
        assert [alert["annotations"]["summary"] for alert in alerts] == [f"{MODEL} has no ready worker"]
        own.python(SCALE.format(model=MODEL, workers=1))
        until(lambda: not ask(url, firing), "NoReadyWorker ends")
