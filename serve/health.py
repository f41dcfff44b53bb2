"""How a running server is: the host's own word about each worker, and the answer to a golden."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import requests

from inference.goldens import Goldens
from inference.store.archive import read_goldens
from inference.store.manifest import NAME, Archive, Manifest
from inference.tools.files import sha256
from inference.tools.torchserve import ModelVersion
from serve.host import HOST, Process, Running
from serve.record import NotServing, Server

# All questions together. A container's health check must have printed its reason within its own 9 s.
ANSWER_SECONDS = 7
STARTUP_SECONDS = 180

CHANGED = "its archive has changed since the server was started"


@dataclass(frozen=True)
class Health:
    """How one version is."""

    version: ModelVersion
    default: bool = False  # whether it answers requests that name no version
    reason: str = ""  # "" where every worker is READY and a golden was answered right


def check_health(server: Server) -> list[Health]:
    """Asks about the workers of each recorded version and, when all are READY, for the answer to a golden."""
    running, reason = HOST.connect(server, ANSWER_SECONDS), "the server is starting"
    if running:
        with running.session, ThreadPoolExecutor(max(1, len(server.models))) as threads:
            try:
                described = [one for one in running.described() if one[0].version in server.models[one[0].model]]
                return list(threads.map(partial(_health, running), described))
            except NotServing as error:
                reason = str(error)
            except requests.RequestException as error:
                reason = f"no answer ({type(error).__name__})"
    each = ((name, version) for name, versions in server.models.items() for version in versions)
    return [Health(ModelVersion(model=name, version=version), reason=reason) for name, version in each]


def _health(running: Running, described: tuple[ModelVersion, bool]) -> Health:
    version, default = described
    reason = version.not_ready_reason
    if not reason:
        digest = running.server.models[version.model][version.version]
        exported = find_exported(running.server, version.model, digest)
        try:
            reason = running.ask(version.model, exported[0], exported[1][:1]) if exported else CHANGED
        except requests.RequestException as error:
            reason = f"no answer ({type(error).__name__})"
    return Health(version, default, reason)


def find_exported(server: Server, name: str, digest: str) -> tuple[Archive, Goldens] | None:
    """The archive with that SHA-256, and its goldens; None where the store holds it no more."""
    store = Path(server.store)
    archives = Manifest.read(store).versions(name) if (store / NAME).exists() else []
    held = next((archive for archive in archives if archive.sha256 == digest), None)
    goldens = held and _goldens(store / held.file, digest)
    return (held, goldens) if held and goldens else None


@cache
def _goldens(path: Path, digest: str) -> Goldens | None:
    """None when the file is another one by now."""
    return read_goldens(path) if path.exists() and sha256(path) == digest else None


def wait(server: Server, process: Process, failed: Callable[[], bool]) -> None:
    """Returns when all models are ready. Raises NotServing when the process has ended, or that can't come any more.

    The end is asked of its process: one that has just begun has no command line yet, and is not found by that.
    """
    deadline = time.monotonic() + STARTUP_SECONDS
    while any(health.reason for health in check_health(server)):
        if process.poll() is not None or failed():
            time.sleep(0.5)  # for the last lines of the log
            raise NotServing("The server could not start.")
        if time.monotonic() > deadline:
            raise NotServing(f"The server was not ready within {STARTUP_SECONDS} s.")
        time.sleep(0.2)
