"""`python -m serve up | run | status | promote | rollback | scale | forget | rotate | logs | down`."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from inference.tools.commands import run
from inference.tools.torchserve import KEY_FILE, PORT
from serve import local, supervisor
from serve.access import Tokens
from serve.gateway import SOCKET, control, update_tokens
from serve.health import check_health
from serve.host import HOST
from serve.promotion import operating, promote_version, rollback_version, running_server, scale_default
from serve.record import recall
from serve.versions import NAME as PROMOTED
from serve.versions import forget_promoted

RUN_DIRECTORY = Path(".serve")
UNWRAPPED = 500

Models = Annotated[
    list[str] | None, typer.Argument(help="What to serve: digits-onnx, or digits for each of it; all by default.")
]
Model = Annotated[str, typer.Argument(help="The name that it is served under, such as digits-onnx.")]


app = typer.Typer(add_completion=False, no_args_is_help=True, help="TorchServe over the archives of a store.")


@app.command()
def up(
    models: Models = None,
    store: Annotated[Path, typer.Option(help="Where the archives are.")] = Path("model_store"),
    port: Annotated[
        int,
        typer.Option(
            envvar="ENTERING_PORT", min=1, max=65531, help="Port for predictions; the four after it are taken too."
        ),
    ] = PORT,
    workers: Annotated[int, typer.Option(min=1, help="Processes for each model; all of them share the cores.")] = 1,
) -> None:
    """Start the server, unless it runs; return when every worker is READY and has answered a golden right."""
    signal.signal(signal.SIGTERM, _terminated)
    console = Console()
    with console.status("Starting TorchServe"):
        served = local.start(RUN_DIRECTORY, store, models or [], port, workers)
    for name in served.models:
        console.print(f"{name} is ready at http://127.0.0.1:{port}/predictions/{name}", highlight=False, soft_wrap=True)


@app.command(name="run")
def run_service(
    models: Models = None,
    store: Annotated[Path, typer.Option(readable=False, help="Where the archives are.")] = Path("model_store"),
    state: Annotated[
        Path, typer.Option(envvar="ENTERING_STATE", help="Where tokens and promoted versions are kept.")
    ] = Path(".serve/state"),
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(envvar="ENTERING_DEVICE", help="What the archives were exported for.")
    ] = "cpu",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port for predictions, on every address.")] = PORT,
    metrics_host: Annotated[
        str, typer.Option(envvar="ENTERING_METRICS_HOST", help="Address for metrics, at port 9100.")
    ] = "127.0.0.1",
) -> None:
    """Serve in the foreground, behind the gateway, until SIGTERM: what a container runs."""
    for folder in (RUN_DIRECTORY, state):
        folder.mkdir(parents=True, exist_ok=True)
    supervisor.Service(RUN_DIRECTORY, state, store, models or [], device, port, metrics_host).run()


@app.command()
def status() -> None:
    """Show each version's workers, and whether it answers a golden right. Exit code 0 when all are ready, 1 if not."""
    states = check_health(running_server(RUN_DIRECTORY))
    table = Table("model", "version", "default", "workers", "ready", box=box.SIMPLE)
    for health in states:
        workers = ", ".join(f"{worker.pid} {worker.status}" for worker in health.version.workers)
        ready = f"no: {health.reason}" if health.reason else "yes"
        table.add_row(health.version.model, health.version.version, "yes" if health.default else "", workers, ready)
    console = Console()
    # A reason is wrapped only where somebody looks at it: elsewhere it is kept by Docker, and read line by line.
    (console if console.is_terminal else Console(width=UNWRAPPED)).print(table)
    raise typer.Exit(1 if any(health.reason for health in states) else 0)


@app.command()
def promote(model: Model, version: Annotated[str, typer.Argument(help="A version that the store holds.")]) -> None:
    """Serve another version of a model by default, once it was loaded beside the present one and answers right."""
    with operating(RUN_DIRECTORY) as running:
        promoted = promote_version(running, model, version)
    print(f"{model} answers with version {promoted.version}. Version {promoted.previous} is kept for a rollback.")


@app.command()
def rollback(model: Model) -> None:
    """Serve the version that was the default before; a second rollback undoes the first."""
    with operating(RUN_DIRECTORY) as running:
        promoted = rollback_version(running, model)
    print(f"{model} answers with version {promoted.version} again. Version {promoted.previous} is kept.")


@app.command()
def scale(model: Model, workers: Annotated[int, typer.Argument(help="How many processes answer for it.")]) -> None:
    """Give the default version more or fewer workers, until the server is started anew."""
    with operating(RUN_DIRECTORY) as running:
        scaled = scale_default(running, model, workers)
    number = len(scaled.workers)
    print(f"{model} {scaled.version} has {number} worker{'' if number == 1 else 's'}.")


@app.command()
def forget(
    model: Model,
    state: Annotated[
        Path, typer.Option(envvar="ENTERING_STATE", help="Where promoted versions are kept.")
    ] = RUN_DIRECTORY,
) -> None:
    """Let the next start take the newest version of a model, whichever was promoted. No server has to run."""
    forget_promoted(state, model)
    print(f"The next start serves the newest version of {model}.")


@app.command()
def rotate() -> None:
    """Make a new token for the running service. The one before it stays valid until the next rotation."""
    with operating(RUN_DIRECTORY) as running, control(RUN_DIRECTORY) as ask:
        state = Path(running.server.state)
        before = Tokens.keep(state)
        after = before.rotated(state)
        update_tokens(RUN_DIRECTORY, ask, after, before.previous)
    print(f"The new token is in {state / KEY_FILE}. The one before it is valid until the next rotation.")


@app.command()
def logs(follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with each new line.")] = False) -> None:
    """Show the log of the running or the last server."""
    log = HOST.log(RUN_DIRECTORY)
    if not log.exists():
        raise ValueError("No server was started here yet. Start one: python -m serve up")
    with log.open(errors="replace") as file:
        while (line := file.readline()) or follow:
            print(line, end="", flush=True)
            time.sleep(0 if line else 0.2)


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
    HOST.stop(known)
    print("The server has stopped.")


def _terminated(number: int, _: FrameType | None) -> None:
    """So that a start which is ended stops what it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


if __name__ == "__main__":
    run(app)
