"""TorchScript: the network traced into a graph and frozen. Deprecated upstream; much of the world still serves it."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.jit import TracerWarning  # type: ignore[attr-defined]  # not in its __all__

from inference.runtime import CONTRACT, FLOAT32, WEIGHTS, CannotRun, Loaded, Network, Source, never_missing
from inference.torch_graph import loaded, prepare

ARTIFACT = "model.pt"
PRECISION = FLOAT32
missing = never_missing


def export(source: Source, path: Path, device: str) -> None:
    """Traced where the network lies. Loading moves it.

    The tracer bakes into each convolution whether it may use TF32 on CUDA; torch's default is yes.
    The CPU's convolutions are faster with weights in the order that images have, channels last (ResNet-18: a tenth).
    """
    network = copy.deepcopy(source.network)
    if device == "cpu":
        network = network.to(memory_format=torch.channels_last)
    place = next((weight.device for weight in network.parameters()), torch.device("cpu"))
    example = source.example.to(place)
    with deprecated(), _strict_tracer(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        graph = torch.jit.freeze(torch.jit.trace(network, example))  # type: ignore[no-untyped-call]
        stream = BytesIO()  # torch itself aborts the process when it can't write to a file
        torch.jit.save(graph, stream, _extra_files=source.metadata)
    path.write_bytes(stream.getvalue())


def load(path: Path, device: str, threads: int, _: Network) -> Loaded:
    """Raises CannotRun, also for a graph that would compute with TF32 where that is switched off."""
    tf32 = prepare(device, threads)
    metadata: dict[str, Any] = {CONTRACT: b"", WEIGHTS: b""}
    with deprecated():
        graph = torch.jit.load(path, map_location=device, _extra_files=metadata)  # type: ignore[no-untyped-call]
    code = graph.inlined_graph  # its nodes live as long as it does
    if any(list(node.inputs())[-1].toIValue() for node in code.findAllNodes("aten::_convolution")):
        raise CannotRun(f"The convolutions of {path.name} were traced with TF32 allowed. Export it again.")
    return loaded(path, graph, {name: text.decode() for name, text in metadata.items()}, "torch.jit", device, tf32)


@contextmanager
def _strict_tracer() -> Iterator[None]:
    """Each warning of the tracer says that something of the example was baked into the graph: a ValueError here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", TracerWarning)
            yield
    except (TracerWarning, SystemError) as error:  # where torch calls from C, the warning is a SystemError's cause
        reason = error.__cause__ if isinstance(error, SystemError) else error
        if not isinstance(reason, TracerWarning):
            raise
        raise ValueError(f"The network can't be traced as it is. {reason}") from error


@contextmanager
def deprecated() -> Iterator[None]:
    """torch says of each function of `torch.jit` that it is deprecated; this file's first line says it too."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning):
            warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", category)
        yield
