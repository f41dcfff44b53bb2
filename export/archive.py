"""Archives are packed: one `.mar` per runtime, with `inference/` whole, its model's file and its host's handler."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from inference.bundle import FILE, Bundle
from inference.contract import Contract
from inference.store.archive import last_words

ROOT = Path(__file__).resolve().parent.parent
ARCHIVER = "from model_archiver.model_packaging import generate_model_archive as run; run()"
NOT_CODE = shutil.ignore_patterns("__pycache__", ".*")

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
"""
DEVICE_TYPES = {"cpu": "cpu", "cuda": "gpu"}  # by kind of device, in TorchServe's words


def pack(path: Path, files: dict[str, Path], contract: Contract, bundle: Bundle) -> None:
    """Writes an archive to `path`: its code, its configuration, and `files` by their names.

    TorchServe's own archiver copies what lies in `stage` to the archive's top, and names the archive by itself. It
    works in a folder for temporary files that has the model's name, which two exports at once must not share. Raises
    RuntimeError when the archiver fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch, "stage")
        shutil.copytree(ROOT / "inference", stage / "inference", ignore=NOT_CODE)
        (stage / "models").mkdir()
        models = {name: ROOT / name for name in ("models/__init__.py", f"models/{contract.model}.py")}
        for name, file in (models | files).items():
            shutil.copyfile(file, stage / name)
        (stage / FILE).write_text(bundle.model_dump_json(indent=2) + "\n")
        config = Path(scratch, "model-config.yaml")
        config.write_text(CONFIG.format(device_type=DEVICE_TYPES[bundle.device], batch_size=bundle.batch_size))
        options = {
            "--model-name": bundle.name,
            "--version": bundle.version,
            "--handler": ROOT / "serve/torchserve/handler.py",
            "--extra-files": stage,
            "--config-file": config,
            "--export-path": scratch,
        }
        command = [sys.executable, "-c", ARCHIVER, *(str(part) for option in options.items() for part in option)]
        environment = {**os.environ, "TMPDIR": scratch}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"torch-model-archiver failed: {last_words(done)}")
        shutil.move(Path(scratch, f"{bundle.name}.mar"), path)
