"""From trained weights to verified archives. Nothing takes its final name before it was loaded back and compared."""

import copy
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export import archive
from export.trained import Trained
from inference import parity
from inference.base import OutOfMemory, out_of_memory
from inference.bundle import Bundle
from inference.goldens import Goldens
from inference.inputs import CPU, Rows
from inference.outputs import Outputs
from inference.runtime import Loaded, device_kind, load_artifact, runtime_module
from inference.selfcheck import inprocess_hops
from inference.store import manifest
from inference.store.archive import archive_file, archive_name, unpacked
from inference.tools.files import publish
from inference.tools.versions import versions
from models import make_network, model_module

PACKAGES = (
    *("numpy", "pillow", "simplejpeg", "torch", "torchvision", "onnx", "onnxruntime-gpu"),
    *("torchserve", "torch-model-archiver"),
)
THREADS = 1  # of eager's answers, so that they are the same bits everywhere
COMPARED_THREADS = min(2, len(os.sched_getaffinity(0)))  # the tolerances were measured with 1 and 2


@dataclass(frozen=True)
class Exported:
    """What was published. `outdated` are the archives that it leaves behind, being of other weights, by their names."""

    name: str
    entry: manifest.Archive
    verdict: parity.Comparison
    outdated: dict[str, manifest.Archive]


def goldens_of(trained: Trained, renew: bool) -> Goldens:
    """The goldens beside the weights, made when there are none or when they are to be renewed.

    Raises ValueError when they were answered by other weights: a changed model is never taken for the same one unasked.
    """
    path = trained.path.with_name("goldens.npz")
    if renew or not path.exists():
        goldens = make_goldens(trained)
        with publish(path) as draft:
            goldens.write(draft)
        return goldens
    goldens = Goldens.read(path)
    if (goldens.weights, goldens.contract) != (trained.digest, trained.contract):
        raise ValueError(
            f"{path} was answered by other weights than {trained.path.name}. If the model was meant to change, "
            f"make new goldens: python -m export {trained.contract.model} --new-goldens"
        )
    return goldens


def make_goldens(trained: Trained) -> Goldens:
    """Held-out inputs as requests, answered by the eager model."""
    spec = trained.contract.input
    names, requests = zip(*spec.requests(trained.data.held_out.inputs), strict=True)
    return answered_by_eager(trained, names, requests, np.concatenate([spec.decode(body) for body in requests]))


def answered_by_eager(trained: Trained, names: Sequence[str], requests: Sequence[bytes], inputs: Rows) -> Goldens:
    """Goldens of `inputs` [N, *input.shape], answered one at a time by the network in float32 and in float64."""
    torch.set_num_threads(THREADS)
    outputs, oracle = answer(trained.network, inputs), answer(copy.deepcopy(trained.network).double(), inputs)
    return Goldens(trained.digest, trained.contract, tuple(names), tuple(requests), inputs, outputs, oracle)


@torch.inference_mode()
def answer(network: torch.nn.Module, rows: Rows) -> NDArray[Any]:
    """Outputs [N, *output.shape] in the network's own precision, computed one input at a time."""
    return np.concatenate([network(torch.from_numpy(row[None])).numpy() for row in rows])


def export_runtime(
    trained: Trained, goldens: Goldens, runtime: str, version: str, store: Path, device: str = "cpu", decoder: str = CPU
) -> Exported:
    """Writes the artifact beside the weights and the archive into `store`, both verified on a kind of device.

    Raises ValueError when they do not answer as eager on the CPU does, and OutOfMemory; nothing is published then.
    """
    start, module, model = time.perf_counter(), runtime_module(runtime), trained.contract.model
    bundle = Bundle(
        name=archive_name(model, runtime),
        version=version,
        runtime=runtime,
        device=device,
        decoder=decoder,
        batch_size=model_module(model).SERVED_BATCH[device],
        model_file=f"models/{model}.py",
    )
    artifact, file = trained.path.with_name(module.ARTIFACT), archive_file(bundle.name, version)
    with (
        tempfile.TemporaryDirectory() as scratch,
        publish(artifact) as artifact_draft,
        publish(store / file) as archive_draft,
    ):
        with out_of_memory():
            module.export(trained, artifact_draft, device)
        loaded, verdict = compare_artifact(artifact_draft, trained, goldens, runtime, device)
        accuracies = compare_accuracy(loaded, trained, runtime)
        packed = Path(scratch, file)
        beside = {name: trained.path.with_name(name) for name in ("contract.json", "goldens.npz")}
        try:
            archive.pack(packed, {artifact.name: artifact_draft, **beside}, trained.contract, bundle)
            hops = inprocess_hops(packed, goldens, runtime, COMPARED_THREADS)
        except RuntimeError as error:
            raise ValueError(f"{file} was not published. {error}") from error
        for hop in hops:
            if not (found := hop.comparison).ok:
                raise ValueError(f"{file} differs from eager at {hop.hop}, so it was not published. {found.sentence}")
        entry = _entry(packed, trained, loaded, accuracies, bundle, time.perf_counter() - start)
        shutil.copyfile(packed, archive_draft)
    return Exported(bundle.name, entry, verdict, manifest.add(store, bundle.name, entry))


def compare_artifact(
    path: Path, trained: Trained, goldens: Goldens, runtime: str, device: str
) -> tuple[Loaded, parity.Comparison]:
    """Loads an artifact back and compares it with eager at every batch size. Raises ValueError when they differ."""
    loaded = load_artifact(runtime, path, device, COMPARED_THREADS, make_network)
    if (loaded.contract, loaded.weights) != (trained.contract, trained.digest):
        raise ValueError(f"The {runtime} artifact doesn't carry the contract and weights that it was made from.")
    limit = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device)
    verdict = parity.worst_of([*compare_at_every_size(loaded, goldens, limit)])
    if not verdict.ok:
        raise ValueError(
            f"The {runtime} artifact does not answer as eager does, so it was not published. {verdict.sentence}"
        )
    return loaded, verdict


def compare_accuracy(loaded: Loaded, trained: Trained, runtime: str) -> tuple[float | None, float | None]:
    """What a reduced precision costs: the shares of held-out inputs, 0 to 1, that the artifact and eager decide right.

    None where the precision is eager's own. Raises ValueError when more is lost than `tolerances.toml` allows.
    """
    allowed = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device).accuracy_drop
    if allowed is None:
        return None, None
    held_out, size = trained.data.held_out, trained.contract.max_batch

    def accuracy(run: Callable[[Rows], NDArray[Any]]) -> float:
        outputs = [run(held_out.inputs[rows]) for rows in parity.batches(size, len(held_out))]
        return trained.contract.output.share_right(np.concatenate(outputs), held_out.targets)

    artifact, eager = accuracy(loaded), accuracy(lambda rows: answer(trained.network, rows))
    if round(eager - artifact, 9) > allowed:
        raise ValueError(
            f"The {runtime} artifact decides {artifact:.2%} of {len(held_out)} held-out inputs right and eager "
            f"{eager:.2%}, which is a fall of more than {allowed:.2%}, so it was not published."
        )
    return artifact, eager


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


def _entry(
    packed: Path, trained: Trained, loaded: Loaded, accuracies: Sequence[float | None], bundle: Bundle, seconds: float
) -> manifest.Archive:
    with unpacked(packed) as directory:
        paths = sorted(path for path in directory.rglob("*") if path.is_file())
        files = {str(path.relative_to(directory)): manifest.describe(path) for path in paths}
    return manifest.Archive(
        file=packed.name,
        **manifest.describe(packed).model_dump(),
        **bundle.model_dump(include={"runtime", "version", "batch_size", "decoder"}),
        model=trained.contract.model,
        device=device_kind(loaded.device),
        provider=loaded.provider,
        precision=loaded.precision,
        tf32=loaded.tf32,
        artifact=runtime_module(bundle.runtime).ARTIFACT,
        weights=trained.digest,
        contract=trained.contract.digest,
        export_seconds=round(seconds, 3),
        files=files,
        versions=versions(PACKAGES),
        accuracy=accuracies[0],
        eager_accuracy=accuracies[1],
    )
