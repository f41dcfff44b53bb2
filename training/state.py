"""A training as values: the job, which decides the weights, the state, which its epochs change, and the checkpoint."""

import io
import math
import pickle
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.contract import Contract
from training.files import publish
from training.models import Data, Model, Recipe


@dataclass(frozen=True)
class Job:
    """All that decides the weights."""

    model: Model
    data: Data
    recipe: Recipe
    seed: int
    device: torch.device

    @cached_property
    def contract(self) -> Contract:
        return self.model.contract(self.data.train)

    @property
    def batches(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return math.ceil(len(self.data.train) / self.recipe.batch_size)

    @cached_property
    def settings(self) -> dict[str, str | int | float | None]:
        """The job in plain values. A checkpoint is resumed only with the same ones."""
        return {
            "model": self.contract.model,
            "contract": self.contract.digest,
            "data": self.data.source,
            "fingerprint": self.data.fingerprint,
            "seed": self.seed,
            "device": self.device.type,
            **asdict(self.recipe),
        }


@dataclass(frozen=True)
class Best:
    """The epoch with the lowest validation loss so far. Accuracy on a small split has too few steps to choose by."""

    epoch: int
    accuracy: float
    loss: float
    weights: dict[str, Tensor]


class State:
    """All that changes from epoch to epoch, and so all that a checkpoint holds."""

    def __init__(self, job: Job) -> None:
        torch.manual_seed(epoch_seed(job.seed, 0))
        peak, steps = job.recipe.learning_rate, job.recipe.epochs * job.batches
        self.network = job.model.network(job.contract).to(job.device)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), peak, weight_decay=job.recipe.weight_decay, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, peak, total_steps=steps)
        self.epoch = 0
        self.seconds = 0.0
        self.best: Best | None = None

    def dump(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("network", "optimizer", "schedule")}
        return {**parts, "epoch": self.epoch, "seconds": self.seconds, "best": self.best and vars(self.best)}

    def restore(self, dumped: dict[str, Any]) -> None:
        for name in ("network", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(dumped[name])
        self.epoch, self.seconds, self.best = dumped["epoch"], dumped["seconds"], Best(**dumped["best"])


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for each epoch, and for the first weights (epoch 0), that no other (seed, epoch) shares by design."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


def write_checkpoint(path: Path, job: Job, state: State) -> None:
    buffer = io.BytesIO()
    torch.save({"settings": job.settings, "state": state.dump()}, buffer)
    with publish(path) as draft:
        draft.write_bytes(buffer.getvalue())


def read_checkpoint(path: Path, job: Job) -> dict[str, Any]:
    """The dumped state of the same job. Raises ValueError when it is missing, damaged or another job's."""
    if not path.is_file():
        raise ValueError(f"There is no checkpoint {path} to resume. Train without --resume.")
    content = path.read_bytes()
    try:
        checkpoint = torch.load(io.BytesIO(content), map_location=job.device, weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError):
        raise ValueError(f"The checkpoint {path} is damaged. Train anew, without --resume.") from None
    parts = checkpoint if isinstance(checkpoint, dict) else {}
    if not all(isinstance(parts.get(name), dict) for name in ("settings", "state")):
        raise ValueError(f"{path} is not a checkpoint of a training. Train anew, without --resume.")
    for name, value in job.settings.items():
        before = checkpoint["settings"].get(name)
        if before != value:
            setting = f"{path} was made with {name.replace('_', ' ')} {before}, not {value}."
            raise ValueError(f"{setting} Resume with the same, or train anew without --resume.")
    state: dict[str, Any] = checkpoint["state"]
    return state
