"""The zoo: each file beside this one is a model. To add a model, add a file that offers what `Model` lists."""

import hashlib
import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.contract import Contract


@dataclass(frozen=True)
class Split:
    """Inputs [N, …] and targets [N]: of a classifier the indices of labels.

    Inputs to train on may be larger than the graph takes, for `augment` to cut from. `names` are what the targets stand
    for, where the data say it, and `files` hold the inputs, where they have files.
    """

    inputs: NDArray[Any]
    targets: NDArray[np.int64]
    names: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Data:
    """Three splits without a common scan: trained on `train`, chosen on `validation`, reported on `held_out`."""

    source: str
    train: Split
    validation: Split
    held_out: Split
    unreadable: tuple[str, ...] = ()  # files that were left out, each with the reason

    @property
    def splits(self) -> dict[str, Split]:
        return {"train": self.train, "validation": self.validation, "held_out": self.held_out}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every array with its name, dtype and shape, in hexadecimal."""
        digest = hashlib.sha256()
        for name, split in self.splits.items():
            for array in (split.inputs, split.targets):
                digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: AdamW, one learning-rate cycle with `learning_rate` as its peak.

    The cycle is PyTorch's OneCycleLR ("one-cycle"), or a linear warm-up over a tenth of it and then a cosine
    ("cosine"). `ema` is the decay of the average of the weights that is validated and published in their place. `crop`
    is the side in pixels that inputs are trained at, where it is not the contract's. `pretrained` begins with published
    weights, and for `frozen_epochs` trains the last layer alone. `threads` are the CPU threads of an operation, by
    default all cores: a small network gains little from more than one, and a fixed number gives the same bits anywhere.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    threads: int | None = None
    schedule: Literal["one-cycle", "cosine"] = "one-cycle"
    ema: float | None = None
    crop: int | None = None
    channels_last: bool = False
    arch: str | None = None
    pretrained: bool = False
    frozen_epochs: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError("--epochs and --batch-size must be at least 1.")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be a number above 0, not {self.learning_rate}.")


class Model(Protocol):
    """What a model file offers. Archives carry the file, so at its top it imports nothing that serving lacks."""

    RECIPES: dict[str, Recipe]  # by data source; the first is the default
    SAMPLE_NAMES: tuple[str, ...]  # for each label the name of a file that holds one held-out input of it
    OPTIONS: tuple[str, ...]  # those of arch, pretrained and skip_bad that the command line takes for it
    SERVED_BATCH: dict[str, int]  # by kind of device: how many waiting requests a worker takes at once, at most

    def data(self, source: str, directory: Path) -> Data:
        """The same splits at every call. `directory` is where downloads lie. Raises ValueError."""

    @property
    def contract(self) -> Callable[..., Contract]:
        """`contract(train)`, its mean and std computed from the training split; see `Job.contract`."""

    def network(self, contract: Contract) -> nn.Module:
        """An untrained network: [B, *input.shape] → [B, *output.shape], in the dtype of its buffers."""

    @property
    def augment(self) -> Callable[..., Tensor]:
        """`augment(images)`, or with the recipe's `crop` behind: uint8 variations, by `torch.rand(…, len(images))`."""


class Pretrainable(Model, Protocol):
    """What a model file offers besides when it knows the option pretrained."""

    FINE_TUNING: dict[str, Any]  # what its recipes become

    def pretrained(self, contract: Contract) -> nn.Module:
        """The network with published weights in all layers but the last. Raises ValueError."""


def zoo() -> list[str]:
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def make_network(contract: Contract) -> nn.Module:
    return model_module(contract.model).network(contract)


def model_module(name: str) -> Model:
    """The file of a model. Raises ValueError for an unknown name."""
    if name not in zoo():
        raise ValueError(f"There is no model {name!r}. Choose one of: {', '.join(zoo())}.")
    return cast(Model, importlib.import_module(f"{__name__}.{name}"))
