"""Changes to a running server that no request notices: another default version, and back; more or fewer workers."""

import fcntl
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import requests

from inference.store import manifest
from inference.store.manifest import Archive, Manifest
from inference.tools import limits
from serve.health import answers_goldens
from serve.room import check_room
from serve.torchserve.management import Management, Refused, Version
from serve.torchserve.record import NotServing, Server, find
from serve.versions import Promoted, recall_promoted, remember_promoted

# A worker may take `startupTimeout` of its archive to load, which is 120 s.
LOAD_SECONDS = 150
ANSWER_SECONDS = 30
SETTLE_SECONDS = 10

SEE = "The server's log says why."
FAILED = re.compile(r"Failed to load model \S+, exception (.+)")


@contextmanager
def operating(run_directory: Path) -> Iterator[Management]:
    """The calls to the server that runs here, for one operation at a time. Raises NotServing where there is none."""
    server = running(run_directory)
    with (run_directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NotServing("Another promote, rollback or scale is at work here. Wait for it to end.") from None
        server = running(run_directory)  # as the last operation left it
        management = Management.of(server, run_directory, ANSWER_SECONDS)
        if management is None:
            raise NotServing("The server is starting. Wait until it is ready: python -m serve status")
        with management.session:
            try:
                yield management
            except requests.RequestException as error:
                raise NotServing(
                    f"TorchServe gave no answer ({type(error).__name__}). See: python -m serve status"
                ) from None


def running(run_directory: Path) -> Server:
    """Raises NotServing where none runs."""
    running = find(run_directory)
    if running is None:
        raise NotServing("No server is running here. Start one: python -m serve up")
    return running


def promote_version(management: Management, run_directory: Path, name: str, version: str) -> Promoted:
    """Makes a version of the store the default, which it becomes only after it was loaded and has answered right.

    The one that was the default stays registered for a rollback, the one before it does not. After a failure, which
    raises ValueError, the new version is gone again and the default is what it was.
    """
    server = management.server
    archive = Manifest.read(Path(server.store)).find(name, version)
    default = _default(management, name)
    _check_promotable(server, name, archive, default)
    if server.models[name].get(version) == archive.sha256:
        return _switch(management, run_directory, name, version, default)
    management = _removed(management, run_directory, name, archive, default)
    try:
        added = _registered(management, run_directory, name, archive, default)
        promoted = _switch(added, run_directory, name, version, default)
    except BaseException:
        _take_back(management.within(ANSWER_SECONDS), run_directory, name, version)
        raise
    _retire(added.within(ANSWER_SECONDS), run_directory, name, promoted)
    return promoted


def rollback_version(management: Management, run_directory: Path, name: str) -> Promoted:
    """The two versions change places: a second rollback undoes the first. Raises ValueError where there is one only."""
    default = _default(management, name)
    known = recall_promoted(Path(management.server.state)).get(name)
    if known is None or not known.previous:
        raise ValueError(f"There is no version of {name} to go back to: none was promoted over another one.")
    target = known.previous if default.version != known.previous else known.version
    if target not in management.server.models[name]:
        raise ValueError(
            f"Version {target} of {name} is not registered any more. "
            f"Promote it: python -m serve promote {name} {target}"
        )
    return _switch(management, run_directory, name, target, default)


def scale_default(management: Management, name: str, workers: int) -> Version:
    """Gives the default version so many workers, until the server is started anew; promoted ones take their number.

    TorchServe ends a worker in the middle of its batch: scaling down, the requests of that batch are answered 500 or
    507, and a client with retries repeats them. A worker's threads stay as many as they were at the start.
    """
    default = _default(management, name)
    most = limits.cores()
    if not 1 <= workers <= most:
        raise ValueError(f"{name} can have from 1 to {most} workers, the cores that the server may use.")
    check_room(management.server, default, workers - len(default.workers))
    try:
        management.within(LOAD_SECONDS).scale(name, default.version, workers)
    except Refused as error:
        management.within(LOAD_SECONDS).scale(name, default.version, len(default.workers))
        raise NotServing(f"{name} keeps its {len(default.workers)} workers: {error}. {SEE}") from None
    return _settled(management.within(ANSWER_SECONDS), name, default.version)


def _default(management: Management, name: str) -> Version:
    if name not in management.server.models:
        raise ValueError(f"There is no model {name!r} here. Served: {', '.join(management.server.models)}.")
    return management.describe(name)


def _check_promotable(server: Server, name: str, archive: Archive, default: Version) -> None:
    """Raises ValueError for an archive that can't take the default's place, or is not what was exported."""
    version = archive.version
    if default.version == version and server.models[name].get(version) == archive.sha256:
        raise ValueError(f"Version {version} of {name} is the default already.")
    if default.version == version:
        raise ValueError(
            f"Version {version} of {name} is the default, and was exported again since. Export it as another version: "
            f"python -m export {archive.model} --version ..."
        )
    if archive.device.partition(":")[0] != default.device:
        raise ValueError(
            f"Version {version} of {name} was exported for {archive.device}, and this server runs on {default.device}. "
            f"Export it for that: python -m export {archive.model} --device {default.device}"
        )
    manifest.check(Path(server.store), {name: archive})


def _removed(management: Management, run_directory: Path, name: str, archive: Archive, default: Version) -> Management:
    """Without what is registered as that version: a killed promotion left it, or it was exported again since."""
    server, version = management.server, archive.version
    if version in server.models[name]:
        remember_promoted(
            Path(server.state), {name: Promoted(version=default.version, sha256=server.models[name][default.version])}
        )
        management = _without(management, run_directory, name, {version})
    if version in management.registered(name):
        management.unregister(name, version)
    return management


def _without(management: Management, run_directory: Path, name: str, versions: set[str]) -> Management:
    """These versions are not looked after any more: what is not recorded is not asked for its health."""
    held = {version: digest for version, digest in management.server.models[name].items() if version not in versions}
    management = _serving(management, name, held)
    management.server.remember(run_directory)
    return management


def _serving(management: Management, name: str, versions: dict[str, str]) -> Management:
    models = management.server.models | {name: versions}
    return replace(management, server=management.server.model_copy(update={"models": models}))


def _registered(
    management: Management, run_directory: Path, name: str, archive: Archive, default: Version
) -> Management:
    """Beside the other versions, not yet recorded. Raises NotServing when its worker does not start."""
    check_room(management.server, default, len(default.workers))
    log = run_directory / "server.log"
    before = log.stat().st_size if log.exists() else 0
    try:
        management.within(LOAD_SECONDS).register(name, archive.file)
    except Refused as error:
        raise NotServing(_not_promoted(name, archive.version, f"{error}. {_why(log, before)}")) from None
    return _serving(management, name, management.server.models[name] | {archive.version: archive.sha256})


def _why(log: Path, before: int) -> str:
    """What the worker itself has said since; a container's log is not within reach."""
    with suppress(FileNotFoundError), log.open("rb") as file:
        file.seek(before)
        if said := FAILED.search(file.read().decode(errors="replace")):
            return said[1]
    return SEE


def _not_promoted(name: str, version: str, why: str) -> str:
    return f"Version {version} of {name} does not become the default, which stays what it was: {why}"


def _switch(management: Management, run_directory: Path, name: str, version: str, default: Version) -> Promoted:
    """`version` is registered; it becomes the default when it has as many workers, and they answer right."""
    try:
        if len(management.within(ANSWER_SECONDS).describe(name, version).workers) != len(default.workers):
            management.within(LOAD_SECONDS).scale(name, version, len(default.workers))
        found = _settled(management.within(ANSWER_SECONDS), name, version)
    except Refused as error:
        raise NotServing(_not_promoted(name, version, f"{error}. {SEE}")) from None
    if wrong := found.hindrance or answers_goldens(management.within(LOAD_SECONDS), name, version):
        raise NotServing(_not_promoted(name, version, wrong))
    management.server.remember(run_directory)
    promoted = Promoted(version=version, sha256=management.server.models[name][version], previous=default.version)
    try:
        management.within(ANSWER_SECONDS).set_default(name, version)
        remember_promoted(Path(management.server.state), {name: promoted})
    except BaseException:
        management.within(ANSWER_SECONDS).set_default(name, default.version)
        raise
    return promoted


def _settled(management: Management, name: str, version: str) -> Version:
    """TorchServe says that a worker was started a moment before it calls it READY; one that died is back in seconds."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (found := management.describe(name, version)).hindrance and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _take_back(management: Management, run_directory: Path, name: str, version: str) -> None:
    """As far as that can still be done; what failed before is what the user is told."""
    with suppress(NotServing, requests.RequestException, OSError):
        if management.describe(name).version != version:
            management.unregister(name, version)
            management.server.remember(run_directory)


def _retire(management: Management, run_directory: Path, name: str, promoted: Promoted) -> None:
    """Keeps the default and the one before it."""
    others = set(management.server.models[name]) - {promoted.version, promoted.previous}
    _without(management, run_directory, name, others)
    for version in others:
        management.unregister(name, version)
