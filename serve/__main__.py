"""`python -m serve up | status | logs | down`."""

import signal
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve import server
from serve.health import check_health
from serve.record import NotServing, Server, find, recall
from training.commands import run

RUN_DIRECTORY = Path(".serve")

app = typer.Typer(add_completion=False, no_args_is_help=True, help="A local TorchServe over the archives of a store.")


@app.command()
def up(
    models: Annotated[
        list[str] | None, typer.Argument(help="Models to serve, such as digits-onnx; all by default.")
    ] = None,
    store: Annotated[Path, typer.Option(help="Where the archives are.")] = Path("model_store"),
    port: Annotated[
        int,
        typer.Option(
            envvar="ENTERING_PORT", min=1, max=65531, help="Port for predictions; the four after it are taken too."
        ),
    ] = 8080,
) -> None:
    """Start the server, unless it runs; return when every worker is READY and has answered a golden right."""
    signal.signal(signal.SIGTERM, _terminated)
    console = Console()
    with console.status("Starting TorchServe"):
        running = server.start(RUN_DIRECTORY, store, models or [], port)
    for name in running.models:
        console.print(f"{name} is ready at http://127.0.0.1:{port}/predictions/{name}", highlight=False, soft_wrap=True)


@app.command()
def status() -> None:
    """Show each model's workers, and whether it answers a golden right. Exit code 0 when all are ready, 1 when not."""
    running = _running()
    table = Table("model", "version", "workers", "ready", box=box.SIMPLE)
    states = check_health(running, RUN_DIRECTORY)
    for health in states:
        workers = ", ".join(f"{worker['pid']} {worker['status']}" for worker in health.workers)
        table.add_row(health.name, health.version, workers, "yes" if health.ready else f"no: {health.reason}")
    Console().print(table)
    raise typer.Exit(0 if all(health.ready for health in states) else 1)


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
    """Stop the server; no process of it is left."""
    known = recall(RUN_DIRECTORY)
    if known is None:
        print("No server is running here.")
        return
    server.stop(known, RUN_DIRECTORY)
    print("The server has stopped.")


def _terminated(number: int, _: FrameType | None) -> None:
    """So that a start which is ended stops what it has started."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(128 + number)


def _running() -> Server:
    running = find(RUN_DIRECTORY)
    if running is None:
        raise NotServing("No server is running here. Start one: python -m serve up")
    return running


if __name__ == "__main__":
    run(app)
