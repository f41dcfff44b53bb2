"""Archives: one `.mar` per runtime, complete in itself, and checked where it can't see this repository."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.goldens import Goldens
from training.contract import Contract

ROOT = Path(__file__).resolve().parent.parent
INPROCESS_SECONDS = 300

# Freed memory is kept for the next batch, which the kernel would have to give anew, page by page (glibc's mallopt).
KEPT_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(64 << 20), "MALLOC_MMAP_THRESHOLD_": str(32 << 20)}

# The code that travels with every model; its own network and its runtime are added to it.
CODE = (
    "training/__init__.py",
    "training/contract.py",
    "training/decoded.py",
    "training/decoders.py",
    "training/files.py",
    "training/fit_cuda.py",
    "training/inputs.py",
    "training/inputs_cuda.py",
    "training/npy.py",
    "training/weights.py",
    "training/models/__init__.py",
    "export/__init__.py",
    "export/goldens.py",
    "export/on_cuda.py",
    "export/on_torch.py",
    "export/parity.py",
    "export/runtime.py",
    "export/tolerances.toml",
    "export/runtimes/__init__.py",
    "serve/__init__.py",
    "serve/inprocess.py",
    "serve/messages.py",
    "serve/metrics.py",
    "serve/predictor.py",
    "serve/protocol.py",
    "serve/read_ahead.py",
)

# TorchServe ignores a minimum of workers without a maximum. A batch waits 1 ms for company, and is run when it is full;
# a delay of 0 TorchServe takes for 100 ms (p50 of a lone request: 104 ms at 0, 3 to 4 ms at 1).
CONFIG = """\
minWorkers: 1
maxWorkers: 1
batchSize: {batch_size}
maxBatchDelay: 1
responseTimeout: 60
startupTimeout: 120
deviceType: {device_type}
runtime: {runtime}
decoder: {decoder}
"""
DEVICE_TYPES = {"cpu": "cpu", "cuda": "gpu"}  # by kind of device, in TorchServe's words


def archive_name(model: str, runtime: str) -> str:
    """The name that an archive is served under."""
    return f"{model}-{runtime.replace('_', '-')}"


def archive_file(name: str, version: str) -> str:
    """The file of one version in a store, where all versions lie side by side."""
    return f"{name}-{version}.mar"


def code_of(model: str, runtime: str) -> list[str]:
    """The files of this repository that an archive carries; `onnx_int8` is built on `onnx`."""
    runtimes = dict.fromkeys([runtime.partition("_")[0], runtime])
    return [*CODE, f"training/models/{model}.py", *(f"export/runtimes/{name}.py" for name in runtimes)]


@dataclass(frozen=True)
class Service:
    """What an archive asks of a server: under which name and version, and on which kind of device, it is served.

    A worker takes `batch_size` requests at once, at most, which `decoder` decodes and `runtime` answers.
    """

    name: str
    version: str
    runtime: str
    device: str
    decoder: str
    batch_size: int


def pack(path: Path, files: dict[str, Path], contract: Contract, service: Service) -> None:
    """Writes an archive to `path`: its code, its configuration, and `files` by their names.

    Raises RuntimeError when the archiver fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch, "stage")
        for code in code_of(contract.model, service.runtime):
            (stage / code).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / code, stage / code)
        for beside, file in files.items():
            shutil.copyfile(file, stage / beside)
        config = Path(scratch, "model-config.yaml")
        config.write_text(CONFIG.format(device_type=DEVICE_TYPES[service.device], **asdict(service)))
        shutil.move(_archived(service.name, stage, config, service.version), path)


def _archived(name: str, stage: Path, config: Path, version: str) -> Path:
    """TorchServe's own archiver, which copies what lies in `stage` to the archive's top, and names the file `name`.mar.

    It works in a folder for temporary files that has the model's name, which two exports at once must not share.
    """
    options = {
        "--model-name": name,
        "--version": version,
        "--handler": ROOT / "serve/handler.py",
        "--extra-files": stage,
        "--config-file": config,
        "--export-path": stage.parent,
    }
    program = "from model_archiver.model_packaging import generate_model_archive as run; run()"
    arguments = [str(part) for option in options.items() for part in option]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "TMPDIR": str(stage.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"torch-model-archiver failed: {_last_words(done)}")
    return stage.with_name(f"{name}.mar")


@contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Raises RuntimeError for a file that is no archive."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with zipfile.ZipFile(archive) as file:
                file.extractall(scratch)
        except (zipfile.BadZipFile, zlib.error):
            raise RuntimeError(f"{archive} is no archive, or a damaged one. Export it again.") from None
        yield Path(scratch)


def read_goldens(archive: Path) -> Goldens:
    with zipfile.ZipFile(archive) as file, file.open("goldens.npz") as goldens:
        return Goldens.read(goldens)


def environment(threads: int) -> dict[str, str]:
    """This process's environment for an archive's code: its threads fixed, this repository out of reach.

    Settings of glibc's that are there already stay.
    """
    places = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place]
    kept = os.pathsep.join(place for place in places if not Path(place, CODE[0]).exists())
    return {**KEPT_MEMORY, **os.environ, "PYTHONPATH": kept, "OMP_NUM_THREADS": str(threads)}


def run_inprocess(command: str, archive: Path, threads: int) -> dict[str, NDArray[Any]]:
    """Runs `serve.inprocess` of an archive by the archive's own code, in a process that can't see this repository.

    Raises RuntimeError with the process's last line when it fails.
    """
    with unpacked(archive) as directory:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "serve.inprocess", command, "out.npz"],
                cwd=directory,
                env=environment(threads),
                capture_output=True,
                text=True,
                check=False,
                timeout=INPROCESS_SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{archive.name} did not come to an end within {INPROCESS_SECONDS} s.") from None
        if done.returncode:
            raise RuntimeError(f"{archive.name} does not run: {_last_words(done)}")
        with np.load(directory / "out.npz", allow_pickle=False) as out:
            return dict(out)


def _last_words(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"its process was ended by {signal.Signals(-done.returncode).name}"
    return next(reversed(done.stderr.strip().splitlines()), f"it ended with exit code {done.returncode}")
