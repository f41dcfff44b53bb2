"""The commands that operate a running server, locally or in its container."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from serve.health import Health, check_health
from serve.promotion import operating, promote_version, rollback_version, running, scale_default
from serve.versions import forget_promoted

RUN_DIRECTORY = Path(".serve")
UNWRAPPED = 500

Model = Annotated[str, typer.Argument(help="The name that it is served under, such as digits-onnx.")]


def promote(model: Model, version: Annotated[str, typer.Argument(help="A version that the store holds.")]) -> None:
    """Serve another version of a model by default, once it was loaded beside the present one and answers right."""
    with operating(RUN_DIRECTORY) as management:
        promoted = promote_version(management, RUN_DIRECTORY, model, version)
    print(f"{model} answers with version {promoted.version}. Version {promoted.previous} is kept for a rollback.")


def rollback(model: Model) -> None:
    """Serve the version that was the default before; a second rollback undoes the first."""
    with operating(RUN_DIRECTORY) as management:
        promoted = rollback_version(management, RUN_DIRECTORY, model)
    print(f"{model} answers with version {promoted.version} again. Version {promoted.previous} is kept.")


def scale(model: Model, workers: Annotated[int, typer.Argument(help="How many processes answer for it.")]) -> None:
    """Give the default version more or fewer workers, until the server is started anew."""
    with operating(RUN_DIRECTORY) as management:
        scaled = scale_default(management, model, workers)
    number = len(scaled.workers)
    print(f"{model} {scaled.version} has {number} worker{'' if number == 1 else 's'}.")


def forget(
    model: Model,
    state: Annotated[
        Path, typer.Option(envvar="ENTERING_STATE", help="Where promoted versions are kept.")
    ] = RUN_DIRECTORY,
) -> None:
    """Let the next start take the newest version of a model, whichever was promoted. No server has to run."""
    forget_promoted(state, model)
    print(f"The next start serves the newest version of {model}.")


def status() -> None:
    """Show each version's workers, and whether it answers a golden right. Exit code 0 when all are ready, 1 if not."""
    states = check_health(running(RUN_DIRECTORY), RUN_DIRECTORY)
    _show(states)
    raise typer.Exit(0 if all(health.ready for health in states) else 1)


def _show(states: list[Health]) -> None:
    """A reason is wrapped only where somebody looks at it: elsewhere it is kept by Docker, and read line by line."""
    table = Table("model", "version", "default", "workers", "ready", box=box.SIMPLE)
    for health in states:
        workers = ", ".join(f"{worker['pid']} {worker['status']}" for worker in health.workers)
        ready = "yes" if health.ready else f"no: {health.reason}"
        table.add_row(health.name, health.version, "yes" if health.default else "", workers, ready)
    console = Console()
    (console if console.is_terminal else Console(width=UNWRAPPED)).print(table)
