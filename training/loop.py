"""The training loop. It knows no model: a model file gives network, data, augmentation and recipe.

Everything random in an epoch is drawn from torch's global generator, which is seeded with (seed, epoch). So a run that
was killed and resumed draws the same numbers as an undisturbed one, and ends with the same bits.
"""

import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.progress import Progress
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter
from torchmetrics.functional.classification import multiclass_accuracy

from training import parallel
from training.state import Best, Job, State, epoch_seed, read_checkpoint, write_checkpoint

EVALUATION_BATCH = 256


def pick_device(name: str) -> torch.device:
    """`auto`, `cpu` or `cuda` → the device; `auto` takes CUDA where there is one. Raises ValueError."""
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"There is no device {name!r}. Choose one of: auto, cpu, cuda.")
    found = torch.cuda.is_available()
    if name == "cuda" and not found:
        raise ValueError("PyTorch finds no CUDA device. See whether nvidia-smi lists one, or train with --device cpu.")
    return torch.device("cuda" if found and name != "cpu" else "cpu")


def train(job: Job, folder: Path, resume: bool = False) -> State:
    """Trains, and after each epoch writes a checkpoint and TensorBoard's log into `folder`.

    In the end `judged` has the weights of the best epoch, and is in eval mode. The same job gives the same bits on the
    CPU, resumed or not. Raises ValueError when the loss is not finite, when a batch is too much to fit for the GPU, and
    when there is no checkpoint to resume or it is another job's.
    """
    checkpoint = folder / "checkpoint.pt"
    with reproducible(job):
        state = State(job)
        if resume:
            state.restore(read_checkpoint(checkpoint, job))
        with tensorboard(folder / "tensorboard", state.epoch) as log, Progress(disable=parallel.rank() > 0) as bar:
            task = bar.add_task(f"Training {job.contract.model}", total=job.steps, completed=state.epoch * job.batches)
            while state.epoch < job.recipe.epochs:
                for name, value in run_epoch(job, state, partial(bar.advance, task)).items():
                    log(name, value, state.epoch)
                if parallel.rank() == 0:
                    write_checkpoint(checkpoint, job, state)
    state.judged.load_state_dict(state.best.weights)
    state.judged.eval()
    return state


def run_epoch(job: Job, state: State, advance: Callable[[], None]) -> dict[str, float]:
    """One epoch and its validation. Returns what TensorBoard shows of it."""
    started = time.perf_counter()
    state.epoch += 1
    torch.manual_seed(epoch_seed(job.seed, state.epoch))
    try:
        train_loss = train_epoch(job, state, advance)
    except torch.OutOfMemoryError as error:
        raise ValueError(f"{error} Train with a --batch-size below {job.recipe.batch_size}.") from None
    if not math.isfinite(train_loss):
        raise ValueError(
            f"The loss of epoch {state.epoch} is {train_loss}. Train with a --learning-rate below "
            f"{job.recipe.learning_rate:g}."
        )
    now = validate(job, state)
    if not state.best.epoch or now.loss < state.best.loss:
        state.best = now
    state.seconds += time.perf_counter() - started
    return {"loss/train": train_loss, "loss/validation": now.loss, "accuracy/validation": now.accuracy}


def train_epoch(job: Job, state: State, advance: Callable[[], None]) -> float:
    """One pass over the training split in random order. Returns the mean loss."""
    images, labels = map(torch.from_numpy, (job.data.train.inputs, job.data.train.targets))
    total = torch.zeros((), device=job.device)
    crop = () if job.recipe.crop is None else (job.recipe.crop,)
    freeze(job, state)
    network = parallel.distributed(state.network)
    order = torch.randperm(len(labels))  # the same in all processes
    if parallel.rank() > 0:  # augmentation and dropout differ between processes; rank 0 draws as a single process does
        torch.manual_seed(epoch_seed(job.seed, state.epoch, parallel.rank()))
    for rows in torch.split(order, job.recipe.batch_size):
        own = parallel.share(rows)
        batch = job.model.augment(images[own].to(job.device), *crop)
        with torch.autocast(job.device.type, torch.bfloat16, enabled=job.device.type == "cuda"):
            logits = network(batch)  # [B, C]
        targets = labels[own].to(job.device)
        loss = F.cross_entropy(logits.float(), targets, label_smoothing=job.recipe.label_smoothing)
        state.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        state.optimizer.step()
        state.schedule.step()
        if state.average:
            state.average.update_parameters(state.network)
        total += loss.detach() * len(rows)
        advance()
    return parallel.mean(total).item() / len(labels)


def freeze(job: Job, state: State) -> None:
    """In a pretrained network's first epochs, all layers but the last, with the statistics of their batch norms."""
    frozen = job.recipe.pretrained and state.epoch <= job.recipe.frozen_epochs
    state.network.train(not frozen).requires_grad_(not frozen)
    if frozen:
        last_layer(state.network).train().requires_grad_(True)


def last_layer(network: nn.Module) -> nn.Module:
    return [layer for layer in network.modules() if any(True for _ in layer.parameters(recurse=False))][-1]


def validate(job: Job, state: State) -> Best:
    """The state's network on the validation split, as a candidate for the best."""
    images, labels = map(torch.from_numpy, (job.data.validation.inputs, job.data.validation.targets))
    parallel.take_buffers_of_rank_0(state.judged)
    logits = parallel.gathered(predict(state.judged, parallel.share(images), job.device), len(labels))
    accuracy = multiclass_accuracy(logits, labels, num_classes=logits.shape[1], average="micro").item()
    weights = {name: tensor.clone() for name, tensor in state.judged.state_dict().items()}
    return Best(state.epoch, accuracy, F.cross_entropy(logits, labels).item(), weights)


@torch.inference_mode()
def predict(network: nn.Module, images: Tensor, device: torch.device) -> Tensor:
    """Logits of all images, float32 [N, C], on the CPU. Leaves the network in eval mode."""
    network.eval()
    return torch.cat([network(batch.to(device)).cpu() for batch in torch.split(images, EVALUATION_BATCH)])


@contextmanager
def reproducible(job: Job) -> Iterator[None]:
    """Deterministic kernels, the recipe's threads and random numbers of its own; afterwards all is as it was before."""
    deterministic, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    if cuda := job.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with this
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(job.recipe.threads or parallel.threads())
    try:
        with torch.random.fork_rng(devices=[job.device] if cuda else []):
            yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.set_num_threads(threads)


@contextmanager
def tensorboard(folder: Path, epochs_done: int) -> Iterator[Callable[[str, float, int], None]]:
    """TensorBoard's log of one run: begun anew, or continued after `epochs_done`. Gives the function that adds a value.

    When its thread can't write, it prints a traceback of the error that it raises here too: that one is left out.
    """
    if parallel.rank() > 0:
        yield lambda name, value, epoch: None  # noqa: ARG005
        return
    if not epochs_done:
        shutil.rmtree(folder, ignore_errors=True)
    before = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        if type(failure.thread).__name__ != "_AsyncWriterThread" or not isinstance(failure.exc_value, OSError):
            before(failure)

    threading.excepthook = hook
    try:
        with SummaryWriter(folder, purge_step=epochs_done + 1) as writer:
            yield writer.add_scalar
    finally:
        threading.excepthook = before
