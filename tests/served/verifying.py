"""The verifier at work on what a test has changed: goldens, archives, or what goes between a client and the server."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.__main__ import main
from client.verify import command, http_hops
from inference.goldens import Goldens
from inference.protocol import ATTESTED, NPY
from inference.selfcheck import Hop, inprocess_hops
from inference.store.manifest import Manifest, describe
from inference.tools.files import sha256
from tests.replacing import Replacement, replaced
from tests.served.asking import Raw, npy
from tests.unit.scripted_server import Call, Reply, scripted
from tests.workspace import Workspace
from tests.zips import rewrite

HOPS = ["decode", "eager", "runtime", "handler", "http", "http_batched", "http_load"]
OVER_HTTP = HOPS[4:]

# How many requests the two hops with company send here: as few as show a fault, so that a test takes seconds.
BATCHED, LOAD = 100, 200
FEW = 40, 10


@dataclass(frozen=True)
class Verified:
    code: int | str | None
    out: str
    err: str
    report: dict[str, Any] | None

    @property
    def first_failing_hop(self) -> str:
        assert self.report
        assert self.report["ok"] is False
        (model,) = self.report["models"]
        red = [hop["hop"] for hop in model["hops"] if not hop["ok"]]
        assert (model["ok"], model["first_failing_hop"]) == (False, red[0])
        return str(red[0])


class Known:
    """The hops in process by what they follow from: the archive, and the goldens that they are compared with."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str, int], list[Hop]] = {}

    def hops(self, archive: Path, goldens: Goldens, runtime: str, threads: int) -> list[Hop]:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, "goldens.npz")
            goldens.write(copy)
            key = sha256(archive), sha256(copy), runtime, threads
        if key not in self.found:
            self.found[key] = inprocess_hops(archive, goldens, runtime, threads)
        return self.found[key]


class Verifier:
    """Runs the command in this process and the server's folder, on goldens and archives of its own to change."""

    def __init__(
        self, served: Workspace, folder: Path, capsys: pytest.CaptureFixture[str], known: Known, model: str = "digits"
    ) -> None:
        self.served, self.capsys, self.known, self.model = served, capsys, known, model
        self.artifacts, self.store = folder / "artifacts", folder / "model_store"
        (self.artifacts / model).mkdir(parents=True)
        for name in ("goldens.npz", "contract.json", "weights.safetensors", "metrics.json"):
            shutil.copy(served.folder / "artifacts" / model / name, self.artifacts / model)
        shutil.copytree(served.store, self.store)

    @property
    def goldens_path(self) -> Path:
        return self.artifacts / self.model / "goldens.npz"

    @property
    def weights_path(self) -> Path:
        return self.artifacts / self.model / "weights.safetensors"

    @property
    def report_path(self) -> Path:
        return self.artifacts / self.model / "verify.json"

    def change_goldens(self, change: Callable[[Goldens], Goldens]) -> None:
        change(Goldens.read(self.goldens_path)).write(self.goldens_path)

    def replace(self, name: str, target: str, replacement: Replacement) -> None:
        """Puts another function into an archive, and the archive into the manifest as if it had been exported so."""
        rewrite(self.store / f"{name}-1.0.mar", lambda files: replaced(files, target, replacement))
        self.accept(name)

    def change_file(self, name: str, file: str, change: Callable[[bytes], bytes]) -> None:
        rewrite(self.store / f"{name}-1.0.mar", lambda files: {**files, file: change(files[file])})
        self.accept(name)

    def accept(self, name: str, **told: Any) -> None:
        """Writes the archive as it is now into the manifest, and what else is to be told of it."""
        manifest, file = Manifest.read(self.store), describe(self.store / f"{name}-1.0.mar").model_dump()
        changed = manifest.archives[name].model_copy(update={**file, **told})
        Manifest(archives={**manifest.archives, name: changed}).write(self.store)

    def remove_from_manifest(self, name: str) -> None:
        others = {other: archive for other, archive in Manifest.read(self.store).archives.items() if other != name}
        Manifest(archives=others).write(self.store)

    def run(
        self,
        *arguments: str,
        url: str = "",
        code: int | None = 1,
        requests: tuple[int, int] = (BATCHED, LOAD),
        last: str = OVER_HTTP[-1],
    ) -> Verified:
        """It has to end with `code`, unless that is None. Of the hops over HTTP, none that comes after `last` is tried.

        What the same archive computes in process of the same goldens is computed once in a session.
        """
        places = ("--artifacts", str(self.artifacts), "--store", str(self.store))
        urls = ("--url", url or self.served.url, "--management-url", self.served.management_url)
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.served.folder)
            patch.setattr(sys, "argv", ["client", "verify", *places, *urls, *arguments])
            patch.setattr(http_hops, "BATCHED_REQUESTS", requests[0])
            patch.setattr(http_hops, "LOAD_REQUESTS", requests[1])
            patch.setattr(http_hops.HttpHops, "run", _as_far_as(last))
            patch.setattr(command, "inprocess_hops", self.known.hops)
            with pytest.raises(SystemExit) as ended:
                main()
        report = json.loads(self.report_path.read_bytes()) if self.report_path.exists() else None
        out, err = self.capsys.readouterr()
        assert code in (None, ended.value.code), out + err
        return Verified(ended.value.code, out, err, report)


def _as_far_as(hop: str) -> Callable[[http_hops.HttpHops], Iterator[Hop]]:
    """The hops over HTTP up to `hop`: none where that is one in process."""
    run = http_hops.HttpHops.run

    def up_to(hops: http_hops.HttpHops) -> Iterator[Hop]:
        for found in run(hops) if hop in OVER_HTTP else ():
            yield found
            if found.hop == hop:
                return

    return up_to


Tampering = Callable[[Call, Reply, int], Reply]
PASSED = ("Content-Type", *ATTESTED.values())


@contextmanager
def proxy(raw: Raw, fault: Tampering) -> Iterator[str]:
    """The address of a server that hands over requests and answers, the latter as `fault` leaves them.

    `fault` gets the request, its answer, and the number of requests before it.
    """
    turns = count()

    def forward(call: Call) -> Reply:
        headers = {name: value for name, value in call.headers.items() if name not in ("Host", "Content-Length")}
        turn = next(turns)
        answer = raw.session.request(
            call.method, raw.served.url + call.path, data=call.body, headers=headers, timeout=60
        )
        kept = {header: answer.headers[header] for header in PASSED if header in answer.headers}
        return fault(call, Reply(answer.status_code, answer.content, kept), turn)

    with scripted(forward) as server:
        yield server.url


def is_npy(reply: Reply) -> bool:
    return reply.status == 200 and reply.headers["Content-Type"] == NPY


def is_json(reply: Reply) -> bool:
    return reply.status == 200 and not is_npy(reply)


def in_logits(change: Callable[[Any], Any]) -> Tampering:
    """A fault in every answer that is npy."""
    return lambda _, reply, __: changed(reply, change)


def changed(reply: Reply, change: Callable[[Any], Any]) -> Reply:
    return replace(reply, body=npy(change(np.load(BytesIO(reply.body))))) if is_npy(reply) else reply


def in_json(change: Callable[[Any], Any]) -> Tampering:
    """A fault in every answer that is JSON."""
    return lambda _, reply, __: (
        replace(reply, body=json.dumps(change(json.loads(reply.body))).encode()) if is_json(reply) else reply
    )


def in_header(field: str, value: str | None) -> Tampering:
    """Another attestation, or none."""
    name = ATTESTED[field]

    def change(_: Call, reply: Reply, __: int) -> Reply:
        kept = {header: text for header, text in reply.headers.items() if header != name}
        return replace(reply, headers=kept if value is None else {**kept, name: value})

    return change


def only(chosen: Callable[[Reply], bool], fault: Tampering) -> Tampering:
    """A fault in some of the answers."""
    return lambda call, reply, turn: fault(call, reply, turn) if chosen(reply) else reply


def is_crowded(reply: Reply) -> bool:
    return reply.headers.get(ATTESTED["batch_size"], "1") != "1"
