"""What Prometheus finds at /metrics, and that the dashboard, the alerts and the docs ask for what there is."""

import json
import re
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import dashboard
from benchmarks.dashboard import Query, Sample
from inference.metrics import SECONDS, Metrics
from serve.exporter import exporting
from serve.record import NAME, NotServing, Server
from tests.unit.scripted_server import BAD_TOKEN, Call, Reply, scripted

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "serve" / "monitoring"
GPU_FIGURES = ("entering_gpu_memory_used_bytes", "entering_gpu_memory_total_bytes", "entering_gpu_utilization_ratio")

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def version(number: str, statuses: list[str], wanted: int, waiting: int) -> dict[str, Any]:
    """One version, as TorchServe 0.12 describes it; what nobody asks for left out."""
    return {
        "modelName": "letters",
        "modelVersion": number,
        "modelUrl": f"letters-{number}.mar",
        "minWorkers": wanted,
        "workers": [{"status": status} for status in statuses],
        "jobQueueStatus": {"remainingCapacity": 1000 - waiting, "pendingRequests": waiting},
    }


@dataclass
class TorchServe:
    """What its management interface tells. It can be told to refuse."""

    default: str = "2.0"
    token: str = "the management token"
    versions: list[dict[str, Any]] = field(
        default_factory=lambda: [version("1.0", [], 0, 0), version("2.0", ["READY", "UNLOADED", "READY"], 3, 17)]
    )

    def __call__(self, call: Call) -> Reply:
        if call.token != self.token:
            return BAD_TOKEN
        if call.path.startswith("/models?"):
            listed = [{"modelName": "letters", "modelUrl": f"letters-{self.default}.mar"}] if self.versions else []
            return Reply(body=json.dumps({"models": listed}).encode())
        assert call.path == "/models/letters/all"
        return Reply(body=json.dumps(self.versions).encode())


@dataclass(frozen=True)
class Place:
    """A run directory, and what is remembered of its server there."""

    run_directory: Path
    server: Server

    def scrape(self) -> Samples:
        with exporting(self.server, 0) as port:
            return scrape(port)


def scrape(port: int) -> Samples:
    response = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10)
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {(one.name, frozenset(one.labels.items())): one.value for family in families for one in family.samples}


def of(samples: Samples, name: str) -> dict[str, float]:
    """By version, or by whatever the last of the labels is."""
    found = {labels: value for (sample, labels), value in samples.items() if sample == name}
    return {max(labels)[1] if labels else "": value for labels, value in found.items()}


@pytest.fixture
def torchserve() -> TorchServe:
    return TorchServe()


@pytest.fixture
def place(tmp_path: Path, torchserve: TorchServe) -> Iterator[Place]:
    """Of a server that has written its tokens, and has two versions of one model."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "key_file.json").write_text(json.dumps({"management": {"key": torchserve.token}}))
    with scripted(torchserve) as management:
        server = Server(
            run_directory=tmp_path,
            port=int(management.url.rpartition(":")[2]) - 1,
            scratch=str(tmp_path),
            store="",
            state="",
            models={"letters": {"1.0": "", "2.0": ""}},
        )
        server.remember()
        yield Place(tmp_path, server)


def test_each_version_is_told_with_its_workers_its_queue_and_whether_it_is_the_default(place: Place) -> None:
    samples = place.scrape()
    assert of(samples, "entering_torchserve_up") == {"": 1}
    assert of(samples, "entering_workers_ready") == {"1.0": 0, "2.0": 2}
    assert of(samples, "entering_workers_wanted") == {"1.0": 0, "2.0": 3}
    assert of(samples, "entering_queue_length") == {"1.0": 0, "2.0": 17}
    assert of(samples, "entering_default_version") == {"1.0": 0, "2.0": 1}
    assert ("entering_queue_length", frozenset({("model", "letters"), ("version", "2.0")})) in samples


def test_a_promotion_is_seen_at_the_next_scrape(place: Place, torchserve: TorchServe) -> None:
    with exporting(place.server, 0) as port:
        assert of(scrape(port), "entering_default_version") == {"1.0": 0, "2.0": 1}
        torchserve.default = "1.0"
        torchserve.versions.append(version("3.0", ["READY"], 1, 0))
        assert of(scrape(port), "entering_default_version") == {"1.0": 1, "2.0": 0, "3.0": 0}


def test_a_version_that_should_be_there_and_is_not_has_no_worker(place: Place, torchserve: TorchServe) -> None:
    del torchserve.versions[1]
    samples = place.scrape()
    assert of(samples, "entering_workers_ready") == {"1.0": 0, "2.0": 0}
    assert of(samples, "entering_default_version") == {"1.0": 0, "2.0": 0}


def test_a_model_that_should_be_there_and_is_not_has_no_worker(place: Place, torchserve: TorchServe) -> None:
    torchserve.versions.clear()
    samples = place.scrape()
    assert of(samples, "entering_torchserve_up") == {"": 1}
    assert of(samples, "entering_workers_ready") == {"1.0": 0, "2.0": 0}


def write_a_worker(folder: Path) -> None:
    """The file of a worker that has started three times; prometheus_client writes such only when told at its import."""
    from prometheus_client.mmap_dict import MmapedDict, mmap_key

    labels = {"model": "letters", "version": "2.0"}
    name = "entering_worker_starts"
    file = MmapedDict(str(folder / "counter_5.db"))  # type: ignore[no-untyped-call]
    key = mmap_key(name, f"{name}_total", list(labels), list(labels.values()), "Starts.")
    file.write_value(key, 3, 0)  # type: ignore[no-untyped-call]
    file.close()  # type: ignore[no-untyped-call]


def refuse(_: Place, torchserve: TorchServe) -> None:
    torchserve.token = "another"


def stop(place: Place, _: TorchServe) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    place.server.model_copy(update={"port": port - 1}).remember()


def half_a_key_file(place: Place, _: TorchServe) -> None:
    (place.run_directory / "key_file.json").write_text('{"manage')


def no_key_file(place: Place, _: TorchServe) -> None:
    (place.run_directory / "key_file.json").unlink()


def no_record(place: Place, _: TorchServe) -> None:
    (place.run_directory / NAME).unlink()


@pytest.mark.parametrize("happens", [refuse, stop, half_a_key_file, no_key_file, no_record])
def test_without_torchserves_word_the_rest_is_still_told(
    place: Place, torchserve: TorchServe, happens: Callable[[Place, TorchServe], None]
) -> None:
    write_a_worker(Path(place.server.scratch, "metrics"))
    happens(place, torchserve)
    samples = place.scrape()
    assert of(samples, "entering_torchserve_up") == {"": 0}
    assert of(samples, "entering_workers_ready") == {}
    assert of(samples, "entering_worker_starts_total") == {"2.0": 3}


def test_a_machine_without_gpu_has_no_figures_of_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    samples = place.scrape()
    assert [of(samples, name) for name in GPU_FIGURES] == [{}, {}, {}]
    assert of(samples, "entering_torchserve_up") == {"": 1}


def test_each_gpu_is_told_in_bytes_and_as_a_share_and_what_it_does_not_tell_is_left_out(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one is split, as a GPU with MIG is, and then has no utilisation."""

    def utilisation(gpu: int) -> SimpleNamespace:
        if gpu:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=37, memory=80)

    ended: list[bool] = []
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: ended.append(True))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 2)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: index)
    monkeypatch.setattr(
        pynvml, "nvmlDeviceGetMemoryInfo", lambda gpu: SimpleNamespace(used=10 + gpu, total=1000 + gpu, free=0)
    )
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", utilisation)
    samples = place.scrape()
    assert [of(samples, name) for name in GPU_FIGURES] == [{"0": 10, "1": 11}, {"0": 1000, "1": 1001}, {"0": 0.37}]
    assert ended == [True]


def test_a_port_in_use_is_told_and_one_is_free_again_after_the_stop(place: Place) -> None:
    with exporting(place.server, 0) as port, pytest.raises(NotServing) as refused, exporting(place.server, port):
        pass
    assert f"Port {port} for metrics can't be used (Address already in use). Free it" in str(refused.value)
    with exporting(place.server, port) as again:
        assert again == port


def known_names(place: Place) -> set[str]:
    """Every series that there can be."""
    worker = {one.name for family in Metrics("m", "1", ["a"]).registry.collect() for one in family.samples}
    return {name for name, _ in place.scrape()} | set(GPU_FIGURES) | worker


@pytest.mark.parametrize(
    "path", ["alerts.yml", "grafana/dashboards/serving.json", "../../docs/metrics.md"], ids=lambda path: Path(path).name
)
def test_nothing_is_asked_for_that_there_is_not(place: Place, path: str) -> None:
    asked = set(re.findall(r"\bentering_\w+", (MONITORING / path).read_text()))
    families = {name.removesuffix("_bucket") for name in known_names(place)}
    assert len(asked) > 5
    assert not asked - known_names(place) - families


def test_every_metric_is_in_the_docs(place: Place) -> None:
    families = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in known_names(place)}
    ours = {name for name in families if name.startswith("entering_") and f"{name}_total" not in families}
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert not [name for name in ours if f"`{name}`" not in text]


def test_the_objective_of_latency_is_a_bound_of_a_bucket_so_that_it_is_held_exactly() -> None:
    rules = {rule["alert"]: rule for rule in alerts()}
    assert float(rules["LatencyOverObjective"]["expr"].rpartition(">")[2]) in SECONDS


def alerts() -> list[dict[str, Any]]:
    [group] = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_every_alert_says_how_bad_it_is_what_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert "docs/operating.md" in rule["annotations"]["description"]
    assert f"### {rule['alert']}" in (ROOT / "docs" / "metrics.md").read_text()


def test_every_panel_has_a_query_a_unit_that_the_table_knows_and_the_provisioned_source() -> None:
    [source] = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    panels = json.loads(dashboard.DASHBOARD.read_bytes())["panels"]
    assert {panel["datasource"]["uid"] for panel in panels} == {source["uid"]}
    assert {query.unit for query in dashboard.queries()} <= dashboard.UNITS.keys()
    assert len({query.expression for query in dashboard.queries()}) >= len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_no_panel_lies_on_another() -> None:
    cells = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + line)
        for panel in json.loads(dashboard.DASHBOARD.read_bytes())["panels"]
        for column in range(panel["gridPos"]["w"])
        for line in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


def test_variables_of_the_dashboard_are_filled_in() -> None:
    for query in dashboard.queries():
        assert "$" not in query.filled


def test_a_row_of_the_table_has_the_highest_values_with_their_legend_and_how_many_more_there_are() -> None:
    query = Query("Latency", 'a{b=~"c|d"}', "{{model}} p99 {{none}}", "s")
    samples = [Sample({"model": f"m{index}"}, index / 3) for index in range(6)]
    assert dashboard.row(query, samples[:2]) == r'| Latency | `a{b=~"c\|d"}` | m1 p99 : 0.333 s<br>m0 p99 : 0 s |'
    assert dashboard.row(query, samples).endswith("m2 p99 : 0.667 s<br>and 2 more |")
    assert dashboard.row(query, []).endswith("| nothing |")
