"""How a running server is: TorchServe's own word about each worker, and the answer to a golden."""

import json
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import requests

from export import parity
from export.archive import read_goldens
from export.goldens import Goldens
from export.manifest import NAME, Archive, Manifest
from serve.protocol import NPY
from serve.record import Server
from training.files import sha256


@dataclass(frozen=True)
class Health:
    """How one model is. `ready`: every worker is READY and a golden was answered right."""

    name: str
    version: str
    workers: list[dict[str, Any]]
    ready: bool
    reason: str = ""


def check_health(server: Server, run_directory: Path) -> list[Health]:
    """Asks TorchServe about each model's workers and, when all are READY, for the answer to a golden."""
    keys = _keys(run_directory)
    if keys is None:
        return [Health(name, "", [], False, "the server is starting") for name in server.models]
    store = Path(server.store)
    archives = Manifest.read(store).archives if (store / NAME).exists() else {}
    with requests.Session() as session:
        return [_health(server, name, archives.get(name), keys, session) for name in server.models]


def _keys(run_directory: Path) -> dict[str, Any] | None:
    """The tokens of this start; None until TorchServe has written them, which it does not do at one stroke."""
    try:
        keys: dict[str, Any] = json.loads((run_directory / "key_file.json").read_bytes())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    return keys


def _health(
    server: Server, name: str, archive: Archive | None, keys: dict[str, Any], session: requests.Session
) -> Health:
    """`archive` is what the store's manifest says of that name now."""
    url = f"http://127.0.0.1:{server.ports.management}/models/{name}"
    try:
        response = session.get(url, headers=_bearer(keys["management"]["key"]), timeout=5)
        if response.status_code != 200:
            return Health(name, "", [], False, response.text.strip())
        model = response.json()[0]
        waiting = [worker for worker in model["workers"] if worker["status"] != "READY"]
        if waiting or not model["workers"]:
            return Health(name, model["modelVersion"], model["workers"], False, "a worker is not READY")
        reason = _answers_golden(server, name, archive, keys["inference"]["key"], session)
    except requests.RequestException as error:
        return Health(name, "", [], False, f"no answer ({type(error).__name__})")
    return Health(name, model["modelVersion"], model["workers"], not reason, reason)


def _answers_golden(server: Server, name: str, archive: Archive | None, key: str, session: requests.Session) -> str:
    """What is wrong with the answer to the first golden, "" when nothing is."""
    known = archive if archive and archive.sha256 == server.models[name] else None
    golden = known and _golden(Path(server.store) / known.file, known.sha256)
    if not known or not golden:
        return "its archive has changed since the server was started"
    url = f"http://127.0.0.1:{server.ports.inference}/predictions/{name}"
    response = session.post(url, data=golden.requests[0], headers={**_bearer(key), "Accept": NPY}, timeout=30)
    if response.status_code != 200:
        return f"a golden was answered {response.status_code}: {response.text.strip()}"
    limit = parity.tolerance(known.runtime, known.precision, known.device)
    return parity.compare(np.load(BytesIO(response.content)), golden, limit).sentence


@cache
def _golden(archive: Path, digest: str) -> Goldens | None:
    """The first golden of the archive with that SHA-256; None when the file is another one by now."""
    if not archive.exists() or sha256(archive) != digest:
        return None
    return read_goldens(archive)[:1]


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
