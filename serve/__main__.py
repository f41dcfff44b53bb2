"""`python -m serve up | run | status | promote | rollback | scale | forget | rotate | logs | down`."""

import signal
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console

from inference.tools.commands import run
from serve import operate, server, supervisor
from serve.access import KEY_FILE, Tokens
from serve.gateway import SOCKET, Control, let_in
from serve.operate import RUN_DIRECTORY
from serve.promotion import operating
from serve.torchserve.record import recall
from serve.versions import NAME as PROMOTED


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


app = typer.Typer(add_completion=False, no_args_is_help=True, help="TorchServe over the archives of a store.")
for command in (operate.status, operate.promote, operate.rollback, operate.scale, operate.forget):
    app.command()(command)


@app.command()
def up(
    models: Annotated[
        list[str] | None, typer.Argument(help="What to serve: digits-onnx, or digits for each of it; all by default.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Where the archives are.")] = Path("model_store"),
    port: Annotated[
        int,
        typer.Option(
            envvar="ENTERING_PORT", min=1, max=65531, help="Port for predictions; the four after it are taken too."
        ),
    ] = 8080,
    workers: Annotated[int, typer.Option(min=1, help="Processes for each model; all of them share the cores.")] = 1,
) -> None:
    """Start the server, unless it runs; return when every worker is READY and has answered a golden right."""
    signal.signal(signal.SIGTERM, _terminated)
    console = Console()
    with console.status("Starting TorchServe"):
        served = server.start(RUN_DIRECTORY, store, models or [], port, workers)
    for name in served.models:
        console.print(f"{name} is ready at http://127.0.0.1:{port}/predictions/{name}", highlight=False, soft_wrap=True)


@app.command(name="run")
def run_service(
    models: Annotated[
        list[str] | None, typer.Argument(help="What to serve: digits-onnx, or digits for each of it; all by default.")
    ] = None,
    store: Annotated[Path, typer.Option(readable=False, help="Where the archives are.")] = Path("model_store"),
    state: Annotated[
        Path, typer.Option(envvar="ENTERING_STATE", help="Where tokens and promoted versions are kept.")
    ] = Path(".serve/state"),
    device: Annotated[
        Device, typer.Option(envvar="ENTERING_DEVICE", help="What the archives were exported for.")
    ] = Device.cpu,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for predictions, on every address.")] = 8080,
    metrics_host: Annotated[
        str, typer.Option(envvar="ENTERING_METRICS_HOST", help="Address for metrics, at port 9100.")
    ] = "127.0.0.1",
) -> None:
    """Serve in the foreground, behind the gateway, until SIGTERM: what a container runs."""
    for folder in (RUN_DIRECTORY, state):
        folder.mkdir(parents=True, exist_ok=True)
    supervisor.Service(RUN_DIRECTORY, state, store, models or [], device, port, metrics_host).run()


@app.command()
def rotate() -> None:
    """Make a new token for the running service. The one before it stays valid until the next rotation."""
    with operating(RUN_DIRECTORY) as management, Control(RUN_DIRECTORY / SOCKET) as control:
        state = Path(management.server.state)
        before = Tokens.keep(state)
        after = before.rotated(state)
        let_in(control, RUN_DIRECTORY, after, before.previous)
    print(f"The new token is in {state / KEY_FILE}. The one before it is valid until the next rotation.")


@app.command()
def logs(follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line.")] = False) -> None:
    """Show the log of the running or the last server."""
    log = RUN_DIRECTORY / "server.log"
    if not log.exists():
        raise ValueError("No server was started here yet. Start one: python -m serve up")
    for line in server.follow(log) if follow else log.read_text(errors="replace").splitlines(keepends=True):
        print(line, end="", flush=follow)


@app.command()
def down() -> None:
    """Stop the server; no process of it is left. The next one starts with the newest versions."""
    if (RUN_DIRECTORY / SOCKET).exists():
        raise ValueError("This server runs behind the gateway. Stop the service itself: docker compose stop")
    known = recall(RUN_DIRECTORY)
    (RUN_DIRECTORY / PROMOTED).unlink(missing_ok=True)
    if known is None:
        print("No server is running here.")
        return
    server.stop(known, RUN_DIRECTORY)
    print("The server has stopped.")


def _terminated(number: int, _: FrameType | None) -> None:
    """So that a start which is ended stops what it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    run(app)
