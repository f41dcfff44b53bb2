"""Artifacts as they lie on disk: loaded, run, and compared with eager."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from inference import parity
from inference.base import OutOfMemory, out_of_memory
from inference.goldens import Goldens
from inference.inputs import Rows
from inference.outputs import Outputs
from inference.runtime import Loaded, load_artifact
from models import make_network


@contextmanager
def it_runs(path: Path, runtime: str) -> Iterator[None]:
    """What a runtime raises for a file that it can't load or run becomes a ValueError: it is no difference."""
    failures: tuple[type[Exception], ...] = (RuntimeError, KeyError)
    if runtime.startswith("onnx"):
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        failures += (state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf)
        failures += (state.NotImplemented, state.RuntimeException)
    try:
        with out_of_memory():
            yield
    except OutOfMemory:  # a full GPU says nothing of the file
        raise
    except failures as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} can't be loaded and run as {runtime} at every batch size: {reason}") from None


def load_to_compare(path: Path, runtime: str, device: str, threads: int) -> tuple[Loaded, Callable[[Rows], Outputs]]:
    """An artifact, and the function that runs it. This and that raise ValueError where it can't be loaded or run."""
    with it_runs(path, runtime):
        loaded = load_artifact(runtime, path, device, threads, make_network)
    return loaded, it_runs(path, runtime)(loaded.__call__)


def compare_at_every_size(
    run: Callable[[Rows], Outputs], goldens: Goldens, limit: parity.Tolerance
) -> Iterator[parity.Comparison]:
    """A verdict for each of `parity.batch_sizes`."""
    for size in parity.batch_sizes(goldens.contract.max_batch):
        yield parity.compare(parity.run_goldens(run, goldens, size), goldens, limit)
