"""TorchScript: the network traced into a graph and frozen. Deprecated upstream; much of the world still serves it."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # not in its __all__

from export.on_torch import prepare, runner
from export.runtime import CONTRACT, WEIGHTS, Loaded
from training.contract import Contract

if TYPE_CHECKING:
    from export.trained import Trained

ARTIFACT = "model.pt"


def missing() -> str | None:
    return None


def export(trained: "Trained", path: Path) -> None:
    with _deprecated(), _strict_tracer():
        graph = torch.jit.freeze(torch.jit.trace(trained.network, trained.example))  # type: ignore[no-untyped-call]
        torch.jit.save(graph, path, _extra_files=trained.metadata)


def load(path: Path, device: str, threads: int) -> Loaded:
    tf32 = prepare(device, threads)
    metadata: dict[str, Any] = {CONTRACT: b"", WEIGHTS: b""}
    with _deprecated():
        graph = torch.jit.load(path, map_location=device, _extra_files=metadata)  # type: ignore[no-untyped-call]
    return Loaded(
        run=runner(graph, device),
        contract=Contract.from_json(metadata[CONTRACT]),
        weights=metadata[WEIGHTS].decode(),
        provider="torch.jit",
        device=device,
        tf32=tf32,
    )


@contextmanager
def _strict_tracer() -> Iterator[None]:
    """Each warning of the tracer says that something of the example was baked into the graph: an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", TracerWarning)
        yield


@contextmanager
def _deprecated() -> Iterator[None]:
    """torch says of each function of `torch.jit` that it is deprecated; this file's first line says it too."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", category)
        yield
