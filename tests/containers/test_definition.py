"""docker-compose.yml as Compose understands it."""

import json
from typing import Any

import pytest

from tests.containers.stack import Stack
from tests.workspace import ROOT, Workspace

PINNED = ("prometheus", "grafana")
SERVING = ("serve", "serve-cpu")


@pytest.fixture(scope="module")
def definition(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    stack = Stack(Workspace(tmp_path_factory.mktemp("definition"), 18080))
    done = stack.compose("config", "--format", "json")
    assert done.stderr == ""  # where Compose tells of obsolete keys and of variables that nobody set
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(params=[*SERVING, *PINNED])
def service(definition: dict[str, Any], request: pytest.FixtureRequest) -> dict[str, Any]:
    found: dict[str, Any] = definition["services"][request.param]
    return found


def test_the_gpu_is_reserved_and_its_driver_offers_what_is_used(definition: dict[str, Any]) -> None:
    serve = definition["services"]["serve"]
    [device] = serve["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    assert serve["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility,video"
    assert serve["environment"]["ENTERING_DEVICE"] == "cuda"


def test_the_services_for_gpu_and_cpu_are_the_same_but_for_the_device(definition: dict[str, Any]) -> None:
    gpu, cpu = (dict(definition["services"][name]) for name in SERVING)
    assert cpu.pop("profiles") == ["cpu"]
    assert cpu.pop("environment")["ENTERING_DEVICE"] == "cpu"
    del gpu["environment"], gpu["deploy"]
    assert gpu == cpu


def test_every_service_is_hardened(service: dict[str, Any]) -> None:
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["mem_limit"]) > 0
    assert service["pids_limit"] > 0
    ours = "build" in service  # its start may be refused, which no sixth try cures; what watches it has to be there
    assert service["restart"] == ("on-failure:5" if ours else "unless-stopped")
    assert service["logging"] == {"driver": "json-file", "options": {"max-file": "5", "max-size": "10m"}}


def test_every_service_is_published_on_this_machine_only_and_by_one_port(service: dict[str, Any]) -> None:
    [port] = service["ports"]
    assert port["host_ip"] == "127.0.0.1"


def test_what_is_mounted_from_the_host_is_mounted_read_only_and_is_there(service: dict[str, Any]) -> None:
    binds = [volume for volume in service["volumes"] if volume["type"] == "bind"]
    assert binds
    assert all(volume["read_only"] for volume in binds)
    for volume in binds:
        if volume["target"] != "/srv/model_store":
            assert ROOT in (ROOT / volume["source"]).parents
            assert (ROOT / volume["source"]).exists()


def test_metrics_have_a_network_that_nothing_leaves(definition: dict[str, Any]) -> None:
    assert definition["networks"]["metrics"]["internal"] is True
    for name in SERVING:
        service = definition["services"][name]
        assert service["networks"]["metrics"]["aliases"] == [service["environment"]["ENTERING_METRICS_HOST"]]
        assert [port["target"] for port in service["ports"]] == [8080]


@pytest.mark.parametrize("name", PINNED)
def test_images_of_others_are_pinned_and_wait_for_no_gpu(definition: dict[str, Any], name: str) -> None:
    service = definition["services"][name]
    tag = service["image"].partition(":")[2]
    assert tag.count(".") == 2
    assert "depends_on" not in service


def test_grafana_has_no_password_to_guess(definition: dict[str, Any]) -> None:
    settings = definition["services"]["grafana"]["environment"]
    assert settings["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert settings["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not [name for name in settings if "PASSWORD" in name]
