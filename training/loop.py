"""The training loop. It knows no model: a model file gives network, data, augmentation and recipe.

Everything random in an epoch is drawn from torch's global generator, seeded anew with (seed, epoch). So a run that was
killed and resumed draws what an undisturbed one draws, and ends with the same bits.
"""

import io
import math
import os
import pickle
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.functional.classification import multiclass_accuracy

from training.contract import Contract
from training.files import publish
from training.models import Data, Model, Recipe, Split

EVALUATION_BATCH = 256


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


@dataclass(frozen=True)
class Trained:
    """The network in eval mode, with the weights of the best epoch; `seconds` are those spent in epochs."""

    network: nn.Module
    best: Best
    seconds: float


class State:
    """All that changes from epoch to epoch, and so all that a checkpoint holds."""

    def __init__(self, job: Job) -> None:
        torch.manual_seed(epoch_seed(job.seed, 0))
        peak, steps = job.recipe.learning_rate, job.recipe.epochs * batches_per_epoch(job)
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


def pick_device(wish: str) -> torch.device:
    """`auto`, `cpu` or `cuda` → the device; `auto` takes CUDA where there is one. Raises ValueError."""
    if wish not in ("auto", "cpu", "cuda"):
        raise ValueError(f"There is no device {wish!r}. Choose one of: auto, cpu, cuda.")
    found = torch.cuda.is_available()
    if wish == "cuda" and not found:
        raise ValueError("PyTorch finds no CUDA device. See whether nvidia-smi lists one, or train with --device cpu.")
    return torch.device("cuda" if found and wish != "cpu" else "cpu")


def train(job: Job, folder: Path, resume: bool = False) -> Trained:
    """Trains, and after each epoch writes a checkpoint and TensorBoard's log into `folder`.

    The same job gives the same bits on the CPU, resumed or not. Raises ValueError when the loss is not finite, and when
    there is no checkpoint to resume or it is another job's.
    """
    checkpoint = folder / "checkpoint.pt"
    with reproducible(job):
        state = State(job)
        if resume:
            state.restore(read_checkpoint(checkpoint, job))
        with tensorboard(folder / "tensorboard", state.epoch) as log, progress_bar(job, state.epoch) as advance:
            while state.epoch < job.recipe.epochs:
                for name, value in run_epoch(job, state, advance).items():
                    log.add_scalar(name, value, state.epoch)
                write_checkpoint(checkpoint, job, state)
    assert state.best
    state.network.load_state_dict(state.best.weights)
    return Trained(state.network.eval(), state.best, state.seconds)


def run_epoch(job: Job, state: State, advance: Callable[[], None]) -> dict[str, float]:
    """One epoch and its validation. Returns what TensorBoard shows of it."""
    started = time.perf_counter()
    state.epoch += 1
    torch.manual_seed(epoch_seed(job.seed, state.epoch))
    train_loss = fit(job, state, advance)
    if not math.isfinite(train_loss):
        raise ValueError(
            f"The loss of epoch {state.epoch} is {train_loss}. Train with a --learning-rate below "
            f"{job.recipe.learning_rate:g}."
        )
    now = validate(job, state)
    if not state.best or now.loss < state.best.loss:
        state.best = now
    state.seconds += time.perf_counter() - started
    return {"loss/train": train_loss, "loss/validation": now.loss, "accuracy/validation": now.accuracy}


def fit(job: Job, state: State, advance: Callable[[], None]) -> float:
    """One pass over the training split in random order. Returns the mean loss."""
    images, labels = tensors(job.data.train)
    total = torch.zeros((), device=job.device)
    state.network.train()
    for rows in torch.split(torch.randperm(len(labels)), job.recipe.batch_size):
        batch = job.model.augment(images[rows].to(job.device))
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.device.type == "cuda"):
            logits = state.network(batch)  # [B, C]
        wanted = labels[rows].to(job.device)
        loss = F.cross_entropy(logits.float(), wanted, label_smoothing=job.recipe.label_smoothing)
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.schedule.step()
        total += loss.detach() * len(rows)
        advance()
    return total.item() / len(labels)


def validate(job: Job, state: State) -> Best:
    """The state's network on the validation split, as a candidate for the best."""
    logits = predict(state.network, job.data.validation, job.device)
    labels = torch.from_numpy(job.data.validation.labels)
    accuracy = multiclass_accuracy(logits, labels, num_classes=logits.shape[1], average="micro").item()
    weights = {name: tensor.clone() for name, tensor in state.network.state_dict().items()}
    return Best(state.epoch, accuracy, F.cross_entropy(logits, labels).item(), weights)


@torch.inference_mode()
def predict(network: nn.Module, split: Split, device: torch.device) -> Tensor:
    """Logits of a whole split, float32 [N, C], on the CPU. Leaves the network in eval mode."""
    network.eval()
    batches = torch.split(torch.from_numpy(split.images), EVALUATION_BATCH)
    return torch.cat([network(batch.to(device)).cpu() for batch in batches])


def tensors(split: Split) -> tuple[Tensor, Tensor]:
    """The arrays of a split as tensors that share their memory."""
    return torch.from_numpy(split.images), torch.from_numpy(split.labels)


def batches_per_epoch(job: Job) -> int:
    return math.ceil(len(job.data.train) / job.recipe.batch_size)


def epoch_seed(seed: int, epoch: int) -> int:
    """A seed for each epoch, and for the first weights (epoch 0), that no other (seed, epoch) shares by design."""
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)[0] >> 1)


@contextmanager
def reproducible(job: Job) -> Iterator[None]:
    """Deterministic kernels, the recipe's threads and random numbers of its own; afterwards all is as it was before."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    cuda = job.device.type == "cuda"
    if cuda:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(job.recipe.threads or threads)
    try:
        with torch.random.fork_rng(devices=[job.device] if cuda else []):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


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
    for name, value in job.settings.items():
        before = checkpoint["settings"].get(name)
        if before != value:
            setting = f"{path} was made with {name.replace('_', ' ')} {before}, not {value}."
            raise ValueError(f"{setting} Resume with the same, or train anew without --resume.")
    state: dict[str, Any] = checkpoint["state"]
    return state


@contextmanager
def tensorboard(folder: Path, epochs_done: int) -> Iterator[SummaryWriter]:
    """TensorBoard's log of one run: begun anew, or gone on with after `epochs_done`."""
    if not epochs_done:
        shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(folder, purge_step=epochs_done + 1) as writer:
        yield writer


@contextmanager
def progress_bar(job: Job, epochs_done: int) -> Iterator[Callable[[], None]]:
    """A bar over all batches of all epochs; gives the function that moves it by one batch."""
    with Progress() as bar:
        batches = batches_per_epoch(job)
        name = f"Training {job.contract.model}"
        task = bar.add_task(name, total=job.recipe.epochs * batches, completed=epochs_done * batches)
        yield lambda: bar.advance(task)
