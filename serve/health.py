"""How a running server is: TorchServe's own word about each worker, and the answer to a golden."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import requests

from inference.goldens import Goldens
from inference.store.archive import read_goldens
from inference.store.manifest import NAME, Archive, Manifest
from inference.tools.files import sha256
from serve.torchserve.management import Management, Refused
from serve.torchserve.record import Server

# All questions together. A container's health check must have printed its reason within its own 9 s.
ANSWER_SECONDS = 7


@dataclass(frozen=True)
class Health:
    """How one version is. `ready`: every worker is READY and a golden was answered right.

    `default` is whether it answers requests that name no version.
    """

    name: str
    version: str
    workers: list[dict[str, Any]]
    ready: bool
    reason: str = ""
    default: bool = False


def check_health(server: Server, run_directory: Path) -> list[Health]:
    """Asks about the workers of each registered version and, when all are READY, for the answer to a golden."""
    management = Management.of(server, run_directory, ANSWER_SECONDS)
    if management is None:
        return [Health(*one, workers=[], ready=False, reason="the server is starting") for one in _each(server)]
    with management.session, ThreadPoolExecutor(max(1, len(server.models))) as threads:
        names = list(server.models)
        defaults = dict(zip(names, threads.map(partial(_default, management), names), strict=True))
        return list(threads.map(partial(_health, management, defaults), _each(server)))


def _each(server: Server) -> list[tuple[str, str]]:
    return [(name, version) for name, versions in server.models.items() for version in versions]


def _default(management: Management, name: str) -> str:
    """The default version; "" where TorchServe names none, of which each version's own question finds the reason."""
    try:
        return management.describe(name).version
    except (Refused, requests.RequestException):
        return ""


def _health(management: Management, defaults: dict[str, str], one: tuple[str, str]) -> Health:
    name, version = one
    workers: list[dict[str, Any]] = []
    try:
        found = management.describe(name, version)
        workers = found.workers
        reason = found.hindrance or answers_goldens(management, name, version, first=1)
    except Refused as error:
        reason = str(error)
    except requests.RequestException as error:
        reason = f"no answer ({type(error).__name__})"
    return Health(name, version, workers, not reason, reason, version == defaults[name])


def answers_goldens(management: Management, name: str, version: str, first: int | None = None) -> str:
    """What is wrong with the answers to the `first` goldens of a recorded version, or to all; "" when nothing is."""
    server = management.server
    known = registered_archive(server, name, version)
    goldens = known and _goldens(Path(server.store) / known.file, known.sha256)
    if not known or not goldens:
        return "its archive has changed since the server was started"
    return management.ask(name, version, known, goldens[:first])


def registered_archive(server: Server, name: str, version: str) -> Archive | None:
    """What the store's manifest says of the registered archive now; None where it knows it no more."""
    store = Path(server.store)
    held = Manifest.read(store).versions(name) if (store / NAME).exists() else []
    digest = server.models[name][version]
    return next((archive for archive in held if archive.sha256 == digest), None)


@cache
def _goldens(archive: Path, digest: str) -> Goldens | None:
    """The goldens of the archive with that SHA-256; None when the file is another one by now."""
    if not archive.exists() or sha256(archive) != digest:
        return None
    return read_goldens(archive)
