"""What the runtimes have in common: how they are found, what they load, and what artifacts are made from."""

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np

from inference import runtimes
from inference.base import out_of_memory
from inference.contract import Contract
from inference.inputs import Batch, Rows
from inference.outputs import Outputs

if TYPE_CHECKING:
    from torch import Tensor, nn

Network = Callable[[Contract], Any]  # a contract → the untrained `torch.nn.Module`; its module need not be imported

# The metadata that every artifact carries.
CONTRACT = "contract"
WEIGHTS = "weights_sha256"

FLOAT32 = "float32"  # the precision that networks are trained in; any other is exported only when asked for


@dataclass(frozen=True)
class Loaded:
    """An artifact, loaded: [B, *input.shape] → float32 [B, *output.shape]. `weights` is its weights' SHA-256."""

    run: Callable[[Batch], Outputs]
    contract: Contract
    weights: str
    provider: str
    device: str
    precision: str = FLOAT32
    tf32: bool = False

    def __call__(self, batch: Batch) -> Outputs:
        outputs = self.run(batch)
        expected = (len(batch), *self.contract.output.shape)
        if outputs.shape != expected or outputs.dtype != np.float32:
            raise RuntimeError(f"The graph gave {outputs.dtype} {outputs.shape}; the contract says float32 {expected}.")
        return outputs


def as_array(batch: Batch) -> Rows:
    """In the CPU's memory."""
    rows: Rows = batch if isinstance(batch, np.ndarray) else batch.cpu().numpy()
    return rows


def joined(batches: Sequence[Batch]) -> Batch:
    """One after the other; on the GPU where any of them is. Raises OutOfMemory."""
    device = next((batch.device for batch in batches if not isinstance(batch, np.ndarray)), None)
    if device is None:
        return np.concatenate(batches)
    import torch

    with out_of_memory():
        return torch.cat([torch.as_tensor(writable(batch), device=device) for batch in batches])


def writable(batch: Batch) -> Batch:
    """torch warns of an array that it must not write to."""
    return np.require(batch, requirements=["C", "W"]) if isinstance(batch, np.ndarray) else batch


class CannotRun(ValueError):
    """The artifact is at fault: it can't compute as it should on the device that it was asked to run on."""


@dataclass(frozen=True)
class Source(ABC):
    """What an artifact is made from: a network in eval mode, float32, on the CPU. `digest` is the SHA-256 of `path`."""

    network: "nn.Module"
    contract: Contract
    path: Path  # of its weights
    digest: str

    @property
    def metadata(self) -> dict[str, str]:
        """What every artifact carries."""
        return {CONTRACT: self.contract.to_json(), WEIGHTS: self.digest}

    @property
    def example(self) -> "Tensor":
        """Two rows to trace with: a batch of 1 would be baked in as a constant."""
        import torch

        return torch.from_numpy(self.contract.input.example(2))

    @property
    @abstractmethod
    def calibration(self) -> Rows:
        """Rows that a precision's ranges are found on: none that its accuracy is measured on."""


class Runtime(Protocol):
    """What a file in `inference/runtimes` offers."""

    ARTIFACT: str
    PRECISION: str

    def missing(self, device: str, /) -> str | None:
        """Why this machine can't export for this runtime on a kind of device, and what to do; None when it can."""

    def export(self, source: Source, path: Path, device: str, /) -> None:
        """Writes the artifact for a kind of device to `path`, with the contract and the weights' digest in it."""

    def load(self, path: Path, device: str, threads: int, network: Network, /) -> Loaded:
        """Loads an artifact on `device` ("cpu", "cuda:0", …); on the CPU it runs on `threads` threads.

        Raises CannotRun for what it finds out before the first batch, and ValueError where the device isn't there.
        """


def load_artifact(runtime: str, path: Path, device: str, threads: int, network: Network) -> Loaded:
    """As the runtime's own `load` does. Raises OutOfMemory, too.

    Beside a GPU one thread does: there is little to compute, and more that wait would keep cores from other processes.
    """
    module = runtime_module(runtime)
    if device == "cpu":
        return module.load(path, device, threads, network)
    with out_of_memory():
        return module.load(path, device, 1, network)


def never_missing(_: str) -> str | None:
    """`missing` of a runtime that every machine can export for."""
    return None


def device_kind(device: str) -> str:
    """ "cuda:1" → "cuda"."""
    return device.partition(":")[0]


def runtime_names() -> list[str]:
    """The runtimes that there are, eager first."""
    names = [module.name for module in pkgutil.iter_modules(runtimes.__path__)]
    return sorted(names, key=lambda name: (name != "eager", name))


def float32_names() -> list[str]:
    """Those that compute as training did; the others give some precision away for speed."""
    return [name for name in runtime_names() if runtime_module(name).PRECISION == FLOAT32]


def runtime_module(name: str) -> Runtime:
    """Raises ValueError for a runtime that there isn't."""
    if name not in runtime_names():
        raise ValueError(f"There is no runtime {name!r}. Choose one of: {', '.join(runtime_names())}.")
    return cast(Runtime, importlib.import_module(f"{runtimes.__name__}.{name}"))
