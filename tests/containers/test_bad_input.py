"""What a user can get wrong ends with one sentence that says what to do, and with no endless restart."""

import shutil
import socket
import time
from pathlib import Path

import pytest

from inference.store.manifest import Manifest
from tests.containers.stack import IMAGE, MODEL, SERVICE, Stack, docker
from tests.containers.test_operation import flip_a_bit

RETRIES = 5


def last_words(stack: Stack, seconds: float = 120) -> list[str]:
    """The log of a service that would not start, after it has come to rest."""
    assert stack.up(check=False).returncode != 0
    deadline = time.monotonic() + seconds
    while stack.inspect()["State"]["Status"] != "exited" or stack.inspect()["RestartCount"] < RETRIES:
        assert time.monotonic() < deadline, stack.log()
        time.sleep(0.5)
    assert (stack.inspect()["State"]["ExitCode"], stack.inspect()["RestartCount"]) == (2, RETRIES)
    return stack.log().splitlines()


def refused(stack: Stack) -> str:
    """The one sentence of a service that was refused before it began to load anything."""
    lines = last_words(stack)
    assert set(lines) == {lines[0]}
    return lines[0]


def not_started(stack: Stack, service: str = SERVICE) -> str:
    """What Docker says of a service that it could not start, and of which nothing runs."""
    done = stack.up(service, check=False)
    assert done.returncode != 0
    assert stack.compose("ps", "--quiet", "--status", "running").stdout == ""
    return done.stderr


def test_an_empty_store(own: Stack) -> None:
    shutil.rmtree(own.workspace.store)
    own.workspace.store.mkdir()
    expected = "error: model_store/manifest.json is missing. Export first: python -m export digits"
    assert refused(own) == expected


def test_a_store_that_is_not_there(own: Stack) -> None:
    shutil.rmtree(own.workspace.store)
    words = not_started(own)
    assert "bind source path does not exist" in words
    assert str(own.workspace.store) in words
    assert not own.workspace.store.exists()  # Docker would have made it, for root


def test_a_changed_archive(own: Stack) -> None:
    name = Manifest.read(own.workspace.store).archives[MODEL].file
    flip_a_bit(own.workspace.store / name)
    sentence = f"error: model_store/{name} is not the file that was exported and verified. Export it again, or restore"
    assert refused(own) == f"{sentence} it."


def test_a_missing_archive(own: Stack) -> None:
    name = Manifest.read(own.workspace.store).archives[MODEL].file
    (own.workspace.store / name).unlink()
    assert f"model_store/{name} is missing" in refused(own)


@pytest.mark.parametrize("name", [".", "manifest.json", "ARCHIVE"])
def test_a_store_that_the_services_user_can_not_read(own: Stack, name: str) -> None:
    store = own.workspace.store
    path = store / name.replace("ARCHIVE", Manifest.read(store).archives[MODEL].file)
    path.chmod(0o700 if path.is_dir() else 0o600)
    sentence = refused(own)
    assert "can't be read by user 10001" in sentence
    assert "chmod" in sentence


def test_a_volume_that_the_services_user_can_not_write(own: Stack) -> None:
    volume = f"{own.project}_state"
    labels = ("--label", f"com.docker.compose.project={own.project}", "--label", "com.docker.compose.volume=state")
    docker("volume", "create", *labels, volume)
    command = "touch /srv/state/file && chown -R 0:0 /srv/state && chmod 755 /srv/state"
    docker("run", "--rm", "--user", "0", "--volume", f"{volume}:/srv/state", "--entrypoint", "sh", IMAGE, "-c", command)
    sentence = refused(own)
    assert "state can't be written by user 10001" in sentence
    assert "chown" in sentence


def test_an_archive_for_a_gpu(own: Stack) -> None:
    known = Manifest.read(own.workspace.store)
    archive = known.archives[MODEL].model_copy(update={"device": "cuda"})
    Manifest(archives={MODEL: archive}).write(own.workspace.store)
    sentence = refused(own)
    assert sentence.startswith(f"error: {MODEL} 1.0 was exported for cuda, and this service runs on cpu.")
    assert "--device cpu" in sentence


def test_too_little_memory(own: Stack) -> None:
    own.environment["ENTERING_MEMORY"] = "400m"
    sentence = last_words(own, 240)[-1]
    assert sentence.startswith("error: The workers need more memory than the 400 MiB that this container may use.")
    assert "ENTERING_MEMORY" in sentence


def test_a_port_that_is_taken(own: Stack) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", own.workspace.port))
        other.listen()
        words = not_started(own)
    assert f"127.0.0.1:{own.workspace.port}" in words
    assert "address already in use" in words


def test_the_gpu_service_without_a_gpu_or_without_archives_for_one(own: Stack) -> None:
    words = not_started(own, "serve")
    if "nvidia" in docker("info", "--format", "{{json .Runtimes}}").stdout or Path("/dev/nvidia0").exists():
        assert "was exported for cpu, and this service runs on cuda." in own.compose("logs", "serve").stdout
    else:
        assert 'could not select device driver "nvidia" with capabilities: [[gpu]]' in words


def test_no_engine(own: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(own.environment, "DOCKER_HOST", "unix:///nowhere/docker.sock")
        done = own.up(check=False)
    assert done.returncode != 0
    assert "Is the docker daemon running?" in done.stderr
