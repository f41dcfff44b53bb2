"""The zoo: each file beside this one is a model. To add a model, add a file that offers what `Model` lists."""

import hashlib
import importlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from training.contract import Contract


@dataclass(frozen=True)
class Split:
    """Inputs as the graph takes them, images uint8 [N, height, width, channels], and labels int64 [N]."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Data:
    """Three splits without a common scan: fitted on `train`, chosen on `validation`, reported on `held_out`."""

    source: str
    train: Split
    validation: Split
    held_out: Split

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "held_out": self.held_out}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every array with its name, dtype and shape, in hexadecimal."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for array in (split.images, split.labels):
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW, one learning-rate cycle with `learning_rate` as its peak.

    `threads` are the CPU threads of an operation, by default all cores. A small network gains next to nothing from more
    than one, and with a fixed number the weights are the same bits on any number of cores.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("--epochs and --batch-size must be at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be a number above 0, not {self.learning_rate}.")


class Model(Protocol):
    """What a model file offers. Archives carry the file, so at its top it imports nothing that serving lacks."""

    RECIPES: dict[str, Recipe]
    """A recipe for each data source; the first source is the default."""

    SAMPLE_NAMES: tuple[str, ...]
    """For each label the name of a file that holds one held-out input of it."""

    def data(self, source: str, directory: Path) -> Data:
        """The same splits at every call. `directory` is where downloads lie. Raises ValueError."""

    def contract(self, train: Split) -> Contract:
        """The contract, its mean and std computed from the training split."""

    def network(self, contract: Contract) -> nn.Module:
        """An untrained network: uint8 [B, *input.shape] → logits [B, labels], in the dtype of its buffers."""

    def augment(self, images: Tensor) -> Tensor:
        """Variations of a training batch, uint8 in and out, drawn from torch's global generator."""


def zoo() -> list[str]:
    """The names of all models."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def model_module(name: str) -> Model:
    """The file of a model. Raises ValueError for an unknown name."""
    if name not in zoo():
        raise ValueError(f"There is no model {name!r}. Choose one of: {', '.join(zoo())}.")
    module: Any = importlib.import_module(f"{__name__}.{name}")
    return cast(Model, module)
