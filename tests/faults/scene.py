"""One user's folder in which one thing is wrong, and the real server that it is verified against."""

import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from client.verify import http_hops
from export.pipeline import export_runtime
from export.trained import Trained, load_trained
from inference.goldens import Goldens
from inference.runtime import runtime_module
from inference.store.manifest import Manifest
from tests.replacing import Replacement
from tests.served.asking import Raw
from tests.served.verifying import FEW, Tampering, Verified, Verifier, proxy
from tests.workspace import Workspace

ALL = (http_hops.BATCHED_REQUESTS, http_hops.LOAD_REQUESTS)


class Scene:
    """What a fault is put into: archives, goldens, a server of its own, or the way to the shared one."""

    def __init__(self, raw: Raw, other_epoch: Workspace, verifier: Verifier) -> None:
        self.raw, self.other_epoch, self.verifier = raw, other_epoch, verifier
        self.url = ""
        self.served_as: dict[str, str] = {}
        self.until_the_end = ExitStack()

    @property
    def trained(self) -> Trained:
        return load_trained(self.verifier.model, self.verifier.artifacts)

    def replace(self, name: str, target: str, replacement: Replacement) -> None:
        """Another function in an archive, which is accepted as if it had been exported so."""
        self.verifier.replace(name, target, replacement)

    def artifact(self, name: str, write: Callable[[Path], object]) -> None:
        """Another artifact in an archive: the one that `write` leaves at a path."""
        path = self._artifact(name)
        write(path)
        self.verifier.change_file(name, path.name, lambda _: path.read_bytes())

    def changed_artifact(self, name: str, change: Callable[[Path], object]) -> None:
        """The archive's own artifact, as `change` leaves it at a path."""
        with zipfile.ZipFile(self.verifier.store / f"{name}-1.0.mar") as archive:
            self._artifact(name).write_bytes(archive.read(self._artifact(name).name))
        self.artifact(name, change)

    def _artifact(self, name: str) -> Path:
        runtime = name.partition("-")[2].replace("-", "_")
        return self.verifier.artifacts / self.verifier.model / runtime_module(runtime).ARTIFACT

    def exported(self, name: str, network: nn.Module) -> None:
        """The artifact that the exporter makes of another network, under the right one's digest."""
        runtime, other = name.partition("-")[2], replace(self.trained, network=network.eval())
        self.artifact(name, lambda path: runtime_module(runtime).export(other, path, "cpu"))

    def exported_for_cuda(self, name: str) -> None:
        """The archive that the exporter makes of the right network for a GPU."""
        goldens = Goldens.read(self.verifier.goldens_path)
        export_runtime(self.trained, goldens, name.partition("-")[2], "1.0", self.verifier.store, "cuda")

    def traced(self, name: str, network: nn.Module, example: torch.Tensor | None = None) -> None:
        """A trace of another network as it stands, with none of the exporter's care but for TF32, which is off."""
        with warnings.catch_warnings(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            warnings.simplefilter("ignore")
            images = self.trained.example if example is None else example
            self.scripted(name, torch.jit.trace(network, images, check_trace=False))  # type: ignore[no-untyped-call]

    def scripted(self, name: str, network: nn.Module) -> None:
        """Another graph of TorchScript, under the right one's digest."""
        metadata = self.trained.metadata
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            graph: Any = torch.jit.script(network)
            self.artifact(name, lambda path: torch.jit.save(graph, path, _extra_files=metadata))

    def goldens(self, change: Callable[[Goldens], Goldens]) -> None:
        self.verifier.change_goldens(change)

    def wire(self, tampering: Tampering) -> None:
        """Puts a proxy between the client and the shared server."""
        self.url = self.until_the_end.enter_context(proxy(self.raw, tampering))

    def serve(self, name: str) -> None:
        """Has the shared server serve the archive as it is now too, under a name of its own."""
        served, own = self.verifier.served, f"{name}-{self.verifier.artifacts.parent.name}"
        archive = self.verifier.store / f"{own}-1.0.mar"
        shutil.copyfile(self.verifier.store / f"{name}-1.0.mar", archive)
        self.until_the_end.callback(shutil.copyfile(archive, served.store / archive.name).unlink)
        params = {"url": archive.name, "model_name": own, "initial_workers": "1", "synchronous": "true"}
        self.until_the_end.callback(self._manage, "DELETE", f"/{own}", {})
        self._manage("POST", "", params)
        manifest = Manifest.read(self.verifier.store)
        entry = manifest.archives[name].model_copy(update={"file": archive.name})
        Manifest(archives={**manifest.archives, own: entry}).write(self.verifier.store)
        self.served_as[name] = own

    def _manage(self, method: str, path: str, params: dict[str, str]) -> None:
        url, token = f"{self.verifier.served.management_url}/models{path}", self.raw.token("management")
        headers = {"Authorization": f"Bearer {token}"}
        answer = self.raw.session.request(method, url, params=params, headers=headers, timeout=60)
        assert answer.status_code == 200, answer.text

    def verified(self, name: str, hop: str) -> Verified:
        """As far as `hop`; with all requests that `verify` sends by itself where the fault needs company to be seen."""
        requests, served_as = ALL if hop in ("http_batched", "http_load") else FEW, self.served_as.get(name, name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(http_hops, "HOP_SECONDS", 120.0)  # a busy machine sends no fewer
            return self.verifier.run(served_as, url=self.url, code=None, requests=requests, last=hop)


@contextmanager
def scene(raw: Raw, other_epoch: Workspace, verifier: Verifier) -> Iterator[Scene]:
    made = Scene(raw, other_epoch, verifier)
    with made.until_the_end:
        yield made
