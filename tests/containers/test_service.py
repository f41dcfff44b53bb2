"""`docker compose up serve-cpu`: healthy, right, and open to nobody but who holds a token at its one port."""

import socket
from collections.abc import Iterable

import pytest
import requests

from serve.gateway import EXPORTER_PORT, METRICS_PORT
from serve.supervisor import TORCHSERVE_PORT
from serve.torchserve.launch import Ports
from tests.containers.stack import IMAGE, MODEL, SERVICE, Stack, docker
from tests.served.asking import RUNTIMES

METRICS = ("metrics", "gateway", "torchserve")
INNER = (*Ports(TORCHSERVE_PORT).all, EXPORTER_PORT, *Ports(8080).all[1:], 7070, 7071)


def reaches(address: str, port: int) -> bool:
    """Whether this machine can open a connection."""
    with socket.socket() as probe:
        probe.settimeout(3)
        return probe.connect_ex((address, port)) == 0


def reachable_from_a_container(network: str, address: str, ports: Iterable[int]) -> list[int]:
    """Which of the ports another container on that network can open a connection to."""
    code = (
        "import socket, sys\n"
        "for port in map(int, sys.argv[2:]):\n"
        "    probe = socket.socket(); probe.settimeout(3)\n"
        "    if probe.connect_ex((sys.argv[1], port)) == 0: print(port)"
    )
    options = ("--rm", "--network", network, "--entrypoint", "python", IMAGE, "-c", code)
    return [int(line) for line in docker("run", *options, address, *map(str, ports)).stdout.split()]


def test_it_is_healthy_and_every_answer_from_the_host_is_the_eager_models(service: Stack) -> None:
    assert service.health() == "healthy"
    assert "no: " not in service.execute("python", "-m", "serve", "status").stdout
    done = service.client("verify")
    for runtime in RUNTIMES:
        assert f"digits-{runtime}: the same as eager" in done.stdout


def test_the_client_predicts_with_the_token_that_was_copied_from_the_volume(service: Stack) -> None:
    sample = str(service.workspace.artifacts / "samples" / "seven.png")
    assert f"{sample}: 7 (" in service.client("predict", sample).stdout


@pytest.mark.parametrize("token", [None, "", "wrong", "wrong\ttoken"])
@pytest.mark.parametrize("path", [f"predictions/{MODEL}", "predictions/unknown", "ping", "models", ""])
def test_without_a_valid_token_nothing_is_answered(service: Stack, seven: bytes, token: str | None, path: str) -> None:
    answer = service.post(seven, token, path)
    assert answer.status_code == 401
    assert "token" in answer.json()["message"]


def test_torchserves_own_token_does_not_open_the_gateway(service: Stack, seven: bytes) -> None:
    keys = service.python("print(__import__('json').load(open('.serve/key_file.json'))['inference']['key'])")
    assert service.post(seven, keys.strip()).status_code == 401
    assert service.post(seven, service.token()).status_code == 200


@pytest.mark.parametrize(
    "path", ["models", f"models/{MODEL}", "metrics", "workflows", "v1/models/x:predict", "", "api-description"]
)
def test_a_valid_token_opens_predictions_and_nothing_else(service: Stack, path: str) -> None:
    assert service.post(b"", service.token(), path).status_code == 404


@pytest.mark.parametrize(("expectation", "status"), [("nothing", 417), ("100-continue", 400)])
def test_a_request_that_is_hidden_in_anothers_body_is_nobodys(
    service: Stack, seven: bytes, expectation: str, status: int
) -> None:
    """It would swallow the next request on its connection to TorchServe, whosever that is."""
    hidden = f"POST /predictions/{MODEL} HTTP/1.1\r\nContent-Length: 4000\r\nX-Swallowed: ".encode()
    assert service.post(seven, service.token()).status_code == 200  # a connection is there
    assert service.post(hidden, service.token(), Expect=expectation).status_code == status
    assert [service.post(seven, service.token()).status_code for _ in range(5)] == [200] * 5


def test_inner_ports_are_unreachable_from_the_host(service: Stack) -> None:
    for address in (service.address(), service.address("metrics"), "127.0.0.1"):
        assert not [port for port in INNER if address != "127.0.0.1" and reaches(address, port)]
    assert not reaches(service.address(), METRICS_PORT)
    published = docker("port", service.container).stdout.splitlines()
    assert published == [f"8080/tcp -> 127.0.0.1:{service.workspace.port}"]
    assert reaches(service.address(), 8080)  # the probe can find an open port


def test_inner_ports_are_unreachable_from_another_container(service: Stack) -> None:
    ports = [*INNER, METRICS_PORT, 8080]
    network = f"{service.project}_default"
    assert reachable_from_a_container(network, service.address(), ports) == [8080]


def test_metrics_are_for_the_network_of_prometheus_alone(service: Stack) -> None:
    network = f"{service.project}_metrics"
    assert METRICS_PORT in reachable_from_a_container(network, "serve.metrics", [*INNER, METRICS_PORT])
    assert reachable_from_a_container(network, "serve.metrics", INNER) == []
    code = "import sys, urllib.request as r\nfor u in sys.argv[1:]: print(r.urlopen(u, timeout=9).read().decode())"
    urls = [f"http://serve.metrics:{METRICS_PORT}/{name}" for name in METRICS]
    scraped = docker("run", "--rm", "--network", network, "--entrypoint", "python", IMAGE, "-c", code, *urls).stdout
    assert "haproxy_backend_http_responses_total" in scraped
    assert "ts_inference_requests_total" in scraped


def test_the_network_of_metrics_leads_nowhere(service: Stack) -> None:
    network = f"{service.project}_metrics"
    assert reachable_from_a_container(network, "1.1.1.1", [53]) == []


def test_no_process_is_root_or_has_any_right_that_others_have_not(service: Stack) -> None:
    """Of those that are there for a second: the engine starts a health check as root, and takes its rights from it."""
    code = (
        "import contextlib, pathlib, time\n"
        "names = 'Uid', 'Gid', 'CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs', 'Seccomp'\n"
        "looks = {}, {}\n"
        "for look in looks:\n"
        "    for path in pathlib.Path('/proc').glob('[0-9]*/status'):\n"
        "        with contextlib.suppress(OSError):\n"
        "            found = dict(line.split(':', 1) for line in path.read_text().splitlines())\n"
        "            look[path] = ' '.join(found[name].split()[0] for name in names)\n"
        "    time.sleep(1)\n"
        "for path in looks[0].keys() & looks[1].keys(): print(looks[0][path], looks[1][path], sep='\\n')"
    )
    processes = service.python(code).splitlines()
    assert len(processes) > 2 * (len(RUNTIMES) + 3)  # supervisor, Java, gateway, workers and the one that looks, twice
    none = "0000000000000000"
    assert set(processes) == {f"10001 10001 {none} {none} {none} 1 2"}


@pytest.mark.parametrize(
    "place", ["/", "/srv", "/srv/serve", "/srv/model_store", "/opt/venv", "/etc", "/usr/bin", "/var"]
)
def test_nothing_can_be_written_to_the_image_or_to_the_store(service: Stack, place: str) -> None:
    done = service.execute("python", "-c", f"open('{place}/written', 'w')", check=False)
    assert done.returncode == 1
    assert "Read-only file system" in done.stderr


def test_root_of_the_container_cannot_write_either(service: Stack) -> None:
    done = docker("exec", "--user", "0", service.container, "touch", "/srv/model_store/x", "/usr/x", check=False)
    assert done.stderr.count("Read-only file system") == 2


def test_limits_are_those_of_the_definition(service: Stack) -> None:
    host = service.inspect()["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"]) == (8 << 30, 8 << 30, 4096)
    assert host["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 5}
    assert service.inspect()["State"]["OOMKilled"] is False


def test_neither_log_nor_environment_holds_a_token(service: Stack) -> None:
    token = service.token()
    assert token not in service.log()
    assert token not in str(service.inspect())
    assert requests.get(f"{service.workspace.url}/?token={token}", timeout=9).status_code == 401
    assert token not in service.log()


def test_a_second_up_changes_nothing(service: Stack) -> None:
    before = service.container
    service.up()
    assert service.container == before
    assert SERVICE in service.compose("ps", "--services").stdout
