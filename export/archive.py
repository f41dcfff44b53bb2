"""Archives: one `.mar` per runtime, complete in itself, and checked where it can't see this repository."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import parity
from export.goldens import Goldens

ROOT = Path(__file__).resolve().parent.parent

# The code that travels with every model; its own network and its runtime are added to it.
CODE = (
    "training/__init__.py",
    "training/contract.py",
    "training/files.py",
    "training/inputs.py",
    "training/weights.py",
    "training/models/__init__.py",
    "export/__init__.py",
    "export/goldens.py",
    "export/on_torch.py",
    "export/parity.py",
    "export/runtime.py",
    "export/tolerances.toml",
    "export/runtimes/__init__.py",
    "serve/__init__.py",
    "serve/inprocess.py",
    "serve/predictor.py",
    "serve/protocol.py",
)

# TorchServe ignores a minimum of workers without a maximum. A batch waits 1 ms for company, and is run when it is full.
CONFIG = """\
minWorkers: 1
maxWorkers: 1
batchSize: {max_batch}
maxBatchDelay: 1
responseTimeout: 60
startupTimeout: 120
deviceType: {device_type}
runtime: {runtime}
"""


def archive_name(model: str, runtime: str) -> str:
    """The name that an archive is served under."""
    return f"{model}-{runtime}"


def pack(
    path: Path, model: str, runtime: str, version: str, device: str, max_batch: int, files: dict[str, Path]
) -> None:
    """Writes the archive of `model` for `runtime` to `path`: its code, its configuration, and `files` by their names.

    Raises RuntimeError when the archiver fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch, "stage")
        for name in (*CODE, f"training/models/{model}.py", f"export/runtimes/{runtime}.py"):
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, stage / name)
        for name, file in files.items():
            shutil.copyfile(file, stage / name)
        device_type = "cpu" if device == "cpu" else "gpu"
        config = Path(scratch, "model-config.yaml")
        config.write_text(CONFIG.format(max_batch=max_batch, device_type=device_type, runtime=runtime))
        _archiver(path, stage, config, version)


def _archiver(path: Path, stage: Path, config: Path, version: str) -> None:
    """TorchServe's own archiver, which copies what lies in `stage` to the archive's top."""
    options = {
        "--model-name": path.stem,
        "--version": version,
        "--handler": ROOT / "serve/handler.py",
        "--extra-files": stage,
        "--config-file": config,
        "--export-path": path.parent,
    }
    program = "from model_archiver.model_packaging import generate_model_archive as run; run()"
    arguments = [str(part) for option in options.items() for part in option]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"torch-model-archiver failed: {_last_words(done)}")


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch, zipfile.ZipFile(archive) as file:
        file.extractall(scratch)
        yield Path(scratch)


def read_goldens(archive: Path) -> Goldens:
    with zipfile.ZipFile(archive) as file, file.open("goldens.npz") as goldens:
        return Goldens.read(goldens)


def environment(threads: int) -> dict[str, str]:
    """This process's environment for an archive's code: its threads fixed, this repository out of reach."""
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    kept = os.pathsep.join(place for place in places if not Path(place, CODE[0]).exists())
    return {**os.environ, "PYTHONPATH": kept, "OMP_NUM_THREADS": str(threads)}


def run_inprocess(command: str, archive: Path, threads: int) -> dict[str, NDArray[Any]]:
    """Runs `serve.inprocess` of an archive by the archive's own code, in a process that can't see this repository.

    Raises RuntimeError with the process's last line when it fails.
    """
    with unpacked(archive) as directory:
        done = subprocess.run(
            [sys.executable, "-m", "serve.inprocess", command, "out.npz"],
            cwd=directory,
            env=environment(threads),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{archive.name} does not run: {_last_words(done)}")
        with np.load(directory / "out.npz", allow_pickle=False) as out:
            return dict(out)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process was ended by {signal.Signals(-done.returncode).name}"
    return next(reversed(done.stderr.strip().splitlines()), f"it ended with exit code {done.returncode}")


@dataclass(frozen=True)
class Hop:
    """One step from the request to the answer, compared with eager."""

    hop: str
    comparison: parity.Comparison


def inprocess_hops(archive: Path, goldens: Goldens, runtime: str, threads: int) -> list[Hop]:
    """The hops that need no server: decode, runtime, handler, each at every batch size of the contract.

    `handler` is red too where a worker would refuse to start.
    """
    found = run_inprocess("answers", archive, threads)
    limit = parity.tolerance(runtime, str(found["attested_precision"]), str(found["attested_device"]))
    sizes = sorted(int(name.removeprefix("runtime_")) for name in found if name.startswith("runtime_"))

    def at_all_sizes(hop: str) -> Hop:
        return Hop(hop, parity.worst_of([parity.compare(found[f"{hop}_{size}"], goldens, limit) for size in sizes]))

    handler = at_all_sizes("handler")
    if refused := str(found["refused"]):
        handler = Hop("handler", replace(handler.comparison, ok=False, sentence=refused))
    return [Hop("decode", parity.compare_pixels(found["pixels"], goldens)), at_all_sizes("runtime"), handler]
