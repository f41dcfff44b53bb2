"""A training as values: the job, which decides the weights, the state, which its epochs change, and the checkpoint."""

import io
import math
import pickle
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from inference.contract import Contract
from inference.tools.files import publish
from models import Data, Model, Pretrainable, Recipe
from training import parallel


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
        """A recipe with a network of several names it to the model's `contract`."""
        if self.recipe.arch is None:
            return self.model.contract(self.data.train)
        return self.model.contract(self.data.train, self.recipe.arch, self.recipe.pretrained)

    @property
    def batches(self) -> int:
        """Batches in an epoch; the last may be smaller."""
        return math.ceil(len(self.data.train) / self.recipe.batch_size)

    @property
    def steps(self) -> int:
        return self.recipe.epochs * self.batches

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
            "processes": parallel.size(),
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
        recipe = job.recipe
        make = cast(Pretrainable, job.model).pretrained if recipe.pretrained else job.model.network
        contract = job.contract
        with parallel.rank_0_first():  # to download
            self.network = make(contract).to(job.device)
        if parallel.size() > 1 and job.device.type == "cuda":  # on CPUs, SyncBatchNorm is an error
            self.network = nn.SyncBatchNorm.convert_sync_batchnorm(self.network)  # type: ignore[no-untyped-call]
        if recipe.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
        )
        self.schedule = schedule(self.optimizer, recipe, job.steps)
        self.average = average(self.network, recipe.ema) if recipe.ema else None
        self.epoch, self.seconds = 0, 0.0  # spent in epochs
        self.best = Best(0, 0.0, math.inf, {})  # none yet

    @property
    def judged(self) -> nn.Module:
        """The network that is validated and published: the average of the weights, where there is one."""
        return self.average.module if self.average else self.network

    @property
    def parts(self) -> dict[str, Any]:
        parts = {"network": self.network, "optimizer": self.optimizer, "schedule": self.schedule}
        return parts | ({"average": self.average} if self.average else {})

    def dump(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {**parts, "epoch": self.epoch, "seconds": self.seconds, "best": vars(self.best)}

    def restore(self, dumped: dict[str, Any]) -> None:
        for name, part in self.parts.items():
            part.load_state_dict(dumped[name])
        self.epoch, self.seconds, self.best = dumped["epoch"], dumped["seconds"], Best(**dumped["best"])


def average(network: nn.Module, decay: float) -> AveragedModel:
    """An exponential moving average of a network's weights and of its batch norms' statistics."""
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return AveragedModel(network, multi_avg_fn=update, use_buffers=True)


def schedule(optimizer: torch.optim.Optimizer, recipe: Recipe, steps: int) -> torch.optim.lr_scheduler.LRScheduler:
    if recipe.schedule == "one-cycle":
        return torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.learning_rate, total_steps=steps)
    warm_up = max(1, steps // 10)

    def share(step: int) -> float:
        """Of the peak: up in a line, down along a cosine to 0 after the last step."""
        if step < warm_up:
            return (step + 1) / warm_up
        return (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def epoch_seed(*key: int) -> int:
    """A seed for each (seed, epoch) or (seed, epoch, rank). Epoch 0 stands for the first weights."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)


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
    return cast(dict[str, Any], checkpoint["state"])
