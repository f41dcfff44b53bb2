"""TorchServe as it comes: its default configuration and logs, and its image classifier's steps in the handler."""

import subprocess
import sys
import zipfile
from pathlib import Path

from benchmarks.contenders import Contender, Launch, Place, Subject
from inference.store.archive import environment
from inference.store.manifest import Manifest
from serve.torchserve.launch import Ports, command

HANDLER = Path(__file__).with_name("peers") / "stock" / "handler.py"
NOTE = (
    "Pillow, torchvision's first transforms, TorchScript, default configuration and logs; stock but for "
    "captum's absence and the normalisation, which is in the graph"
)


class NotPossible(Exception):
    """The subject has nothing that the stock handler could serve."""


def stock(subject: Subject, place: Place) -> Launch:
    store, scratch = place.folder / "store", place.folder / "scratch"
    for folder in (store, scratch):
        folder.mkdir()
    _pack(subject, place.folder, store)
    config = place.folder / "config.properties"
    config.write_text(_configuration(subject, place, store))
    plain = [part for part in command(config, scratch) if not part.startswith("-Dlog4j")]
    return Launch(plain, environment(1), f"/predictions/{subject.name}")


def _configuration(subject: Subject, place: Place, store: Path) -> str:
    ports = Ports(place.port)
    settings = {
        "inference_address": f"http://127.0.0.1:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://127.0.0.1:{ports.metrics}",
        "grpc_inference_port": ports.grpc[0],
        "grpc_management_port": ports.grpc[1],
        "model_store": store,
        "load_models": f"{subject.name}={subject.name}.mar",
        "default_workers_per_model": place.workers,
        "disable_token_authorization": "true",
        "disable_system_metrics": "true",
        "vmargs": "-Xmx512m",
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _pack(subject: Subject, folder: Path, store: Path) -> None:
    """From the model's TorchScript archive in the same store. Raises NotPossible when there is none."""
    name = f"{subject.archive.model}-torchscript"
    script = Manifest.read(subject.store).archives.get(name)
    if script is None or script.weights != subject.archive.weights:
        raise NotPossible(f"The store has no {name} of the same weights.")
    extra = folder / "extra"
    with zipfile.ZipFile(subject.store / script.file) as archive:
        for file in ("contract.json", script.artifact):
            archive.extract(file, extra)
    options = ["--model-name", subject.name, "--version", "1.0", "--handler", str(HANDLER)]
    options += ["--extra-files", str(extra), "--export-path", str(store)]
    program = "from model_archiver.model_packaging import generate_model_archive as run; run()"
    subprocess.run([sys.executable, "-c", program, *options], check=True, capture_output=True)


STOCK = Contender("stock", "TorchServe, stock", ("torchserve",), stock, note=NOTE, same_predictor=False)
