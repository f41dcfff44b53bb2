"""The image holds what serves, unprivileged, and nothing that builds, trains or belongs to one model."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.containers.stack import docker
from tests.snapshot import snapshot
from tests.workspace import ROOT


def inside(image: str, *command: str) -> str:
    """What a command prints as root in a fresh container that reaches no network."""
    options = ("--rm", "--network", "none", "--user", "0", "--entrypoint", command[0])
    return docker("run", *options, image, *command[1:]).stdout


@pytest.fixture(scope="module")
def config(image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(docker("image", "inspect", image).stdout)[0]["Config"]
    return found


def test_it_holds_the_control_and_inference_and_no_code_of_a_model(image: str) -> None:
    listed = inside(image, "find", "/srv", "-type", "f", "-not", "-name", "*.pyc").split()
    held = {str(Path(name).relative_to("/srv")) for name in listed}
    tracked = {str(path.relative_to(ROOT)) for stage in ("inference", "serve") for path in snapshot(ROOT / stage)}
    people = {name for name in tracked if name.startswith("serve/monitoring/")} | {"serve/Dockerfile"}
    code = {name for name in tracked if not name.endswith(".pyc")}
    assert held == code - people - {"serve/requirements.lock"}


def test_all_of_its_modules_can_be_imported(image: str) -> None:
    code = (
        "import importlib, pathlib\n"
        "for path in sorted(pathlib.Path().rglob('*.py')):\n"
        "    if path.stem != '__main__': importlib.import_module('.'.join(path.with_suffix('').parts))\n"
        "    print(path)"
    )
    assert "serve/supervisor.py" in inside(image, "python", "-c", code)


def test_it_has_the_locked_packages_and_no_others(image: str) -> None:
    code = "from importlib import metadata as m\nfor d in m.distributions(): print(d.name.lower() + '==' + d.version)"
    listed = inside(image, "/opt/venv/bin/python", "-I", "-c", code).split()
    lock = (ROOT / "serve" / "requirements.lock").read_text()
    pins = dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", lock, re.MULTILINE))
    names = [re.sub(r"[-_.]+", "-", line.partition("==")[0]) for line in listed]
    assert {*names} <= {*pins}
    assert {*pins} - {*names} <= {"colorama"}  # of another operating system
    assert {line.partition("==")[2] for line in listed} <= set(re.findall(r"==([\w.+-]+)", lock))


@pytest.mark.parametrize(
    "tool", ["gcc", "cc", "c++", "ld", "make", "pip", "pip3", "uv", "curl", "wget", "git", "gpg-agent"]
)
def test_it_has_no_compiler_no_installer_and_no_downloader(image: str, tool: str) -> None:
    assert inside(image, "sh", "-c", f"command -v {tool} || echo none") == "none\n"


def test_it_has_no_cache_and_no_list_of_a_package_manager(image: str) -> None:
    places = "/root/.cache /var/lib/apt/lists /var/cache/apt /tmp /srv/model_store /srv/state /srv/.serve"
    assert inside(image, "sh", "-c", f"find {places} -type f 2>/dev/null; true") == ""
    assert inside(image, "sh", "-c", "find / -xdev -name 'pip-*.dist-info' -o -xdev -name ensurepip") == ""


def test_what_was_given_to_the_build_only_is_not_in_it(image: str) -> None:
    assert inside(image, "sh", "-c", "ls /run/secrets 2>/dev/null; true") == ""
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", image).stdout
    assert "BEGIN CERTIFICATE" not in history
    assert "PIP_CERT=/run/secrets/ca" not in history  # that layer belongs to the builder


def test_it_runs_unprivileged_and_says_what_it_is(config: dict[str, Any]) -> None:
    assert (config["User"], config["WorkingDir"], config["StopSignal"]) == ("serve", "/srv", "SIGTERM")
    assert (config["Entrypoint"], config["Cmd"]) == (["python", "-m", "serve"], ["run"])
    names = {f"org.opencontainers.image.{name}" for name in ("title", "description", "licenses", "version", "source")}
    assert names <= config["Labels"].keys()
    assert all(config["Labels"][name] for name in names)


def test_code_can_not_be_changed_by_who_runs_it(image: str) -> None:
    found = inside(image, "sh", "-c", "find /srv /opt /usr /etc -xdev -user serve -o -xdev -type f -perm -o+w")
    assert sorted(found.split()) == ["/srv/.serve", "/srv/state"]


def test_unhealthy_is_reported_within_half_a_minute(config: dict[str, Any]) -> None:
    """Between two checks lies the interval, each takes the timeout at the most, and the last one decides."""
    check = config["Healthcheck"]
    assert check["Test"] == ["CMD", "python", "-m", "serve", "status"]
    assert check["Retries"] * (check["Interval"] + check["Timeout"]) <= 30e9
