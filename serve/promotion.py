"""Changes to a running server that no request notices: another default version, and back; more or fewer workers."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import requests

from inference.store import manifest
from inference.store.manifest import Manifest
from inference.tools import limits
from inference.tools.torchserve import ModelVersion
from serve.health import CHANGED, find_exported
from serve.host import HOST, Running
from serve.record import SEE_LOG, NotPromoted, NotServing, Server, find
from serve.versions import Promoted, recall_promoted, remember_promoted


@contextmanager
def operating(run_directory: Path) -> Iterator[Running]:
    """The server that runs here, for one operation at a time. Raises NotServing where there is none."""
    running_server(run_directory)  # before the lock's file is made
    with (run_directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotServing("Another promote, rollback or scale is at work here. Wait for it to end.") from None
        running = HOST.connect(running_server(run_directory))  # as the last operation left it
        if running is None:
            raise NotServing("The server is starting. Wait until it is ready: python -m serve status")
        with running.session:
            try:
                yield running
            except requests.RequestException as error:
                words = f"TorchServe gave no answer ({type(error).__name__}). See: python -m serve status"
                raise NotServing(words) from None


def running_server(run_directory: Path) -> Server:
    """Raises NotServing where none runs."""
    server = find(run_directory)
    if server is None:
        raise NotServing("No server is running here. Start one: python -m serve up")
    return server


def promote_version(running: Running, name: str, version: str) -> Promoted:
    """Makes a version of the store the default, which it becomes only after it was loaded and has answered right.

    The one that was the default stays registered for a rollback, the one before it does not. After a failure, which
    raises ValueError, the new version is gone again and the default is what it was.
    """
    server = running.server
    archive = Manifest.read(Path(server.store)).find(name, version)
    default = _default(running, name)
    held = server.models[name]
    one = f"Version {version} of {name}"
    if default.version == version and held.get(version) == archive.sha256:
        raise ValueError(f"{one} is the default already.")
    if default.version == version:
        remedy = f"Export it as another version: python -m export {archive.model} --version ..."
        raise ValueError(f"{one} is the default, and was exported again since. {remedy}")
    if archive.device.partition(":")[0] != default.device:
        remedy = f"Export it for that: python -m export {archive.model} --device {default.device}"
        raise ValueError(f"{one} was exported for {archive.device}, and this server runs on {default.device}. {remedy}")
    manifest.check(Path(server.store), {name: archive})
    if held.get(version, archive.sha256) != archive.sha256:  # what was kept for a rollback is exported again since
        kept = Promoted(version=default.version, sha256=held[default.version])
        remember_promoted(Path(server.state), {name: kept})
    return _promoted(running, name, version, archive.sha256, default)


def rollback_version(running: Running, name: str) -> Promoted:
    """The two versions change places: a second rollback undoes the first. Raises ValueError where there is one only."""
    server, default = running.server, _default(running, name)
    known = recall_promoted(Path(server.state)).get(name)
    if known is None or not known.previous:
        raise ValueError(f"There is no version of {name} to go back to: none was promoted over another one.")
    target = known.previous if default.version != known.previous else known.version
    if target not in server.models[name]:
        remedy = f"Promote it: python -m serve promote {name} {target}"
        raise ValueError(f"Version {target} of {name} is not registered any more. {remedy}")
    return _promoted(running, name, target, server.models[name][target], default)


def scale_default(running: Running, name: str, workers: int) -> ModelVersion:
    """Gives the default version so many workers, until the server is started anew; promoted ones take their number.

    TorchServe ends a worker in the middle of its batch: scaling down, the requests of that batch are answered 500 or
    507, and a client with retries repeats them. A worker's threads stay as many as they were at the start.
    """
    default = _default(running, name)
    before, most = len(default.workers), limits.cores()
    if not 1 <= workers <= most:
        raise ValueError(f"{name} can have from 1 to {most} workers, the cores that the server may use.")
    running.server.check_memory(default, workers - before)
    try:
        return running.scale(name, default.version, workers)
    except NotServing as error:
        running.scale(name, default.version, before)
        raise NotServing(f"{name} keeps its {before} workers: {error}. {SEE_LOG}") from None


def _default(running: Running, name: str) -> ModelVersion:
    if name not in running.server.models:
        raise ValueError(f"There is no model {name!r} here. Served: {', '.join(running.server.models)}.")
    return running.describe(name)


def _promoted(running: Running, name: str, version: str, digest: str, default: ModelVersion) -> Promoted:
    """Remembered only when it is done. Raises NotServing where it is not, or its archive isn't there any more."""
    exported = find_exported(running.server, name, digest)
    if not exported:
        raise NotPromoted(name, version, CHANGED)
    promoted = Promoted(version=version, sha256=digest, previous=default.version)
    running.promote(name, *exported, partial(remember_promoted, Path(running.server.state), {name: promoted}))
    return promoted
