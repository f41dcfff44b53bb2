"""What several commands take, and how they print tables."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, ProgressColumn

from client.access import ADDRESSES, PORT_VARIABLE, Use
from inference.tools.torchserve import PORT


def _address(use: Use, here: str, about: str) -> Any:
    default = f"{here}, of this machine"
    return typer.Option(envvar=ADDRESSES[use], show_default=default, help=f"The server's address for {about}.")


Url = Annotated[str | None, _address("inference", f"port ${PORT_VARIABLE}, or {PORT}", "predictions")]
ManagementUrl = Annotated[
    str | None, _address("management", f"the port after ${PORT_VARIABLE}, or {PORT + 1}", "management")
]
Seconds = Annotated[
    float, typer.Option(metavar="SECONDS", min=0.1, max=3600, help="How long the server may be silent.")
]
Artifacts = Annotated[Path, typer.Option(help="Where training and export write.")]
Store = Annotated[Path, typer.Option(help="Where the archives are.")]


def require(command: str, *packages: str) -> None:
    """Raises ValueError for the first of `packages`, by the names of their modules, that the client is here without."""
    for package in packages:
        if find_spec(package) is None:
            named = {"hdrh": "hdrhistogram"}.get(package, package)
            raise ValueError(f"{command} needs {named}. Install it, or make setup where this project lies.")


def console() -> Console:
    """As wide as the terminal; in a file or a pipe, as wide as our tables."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def progress_bar(*columns: ProgressColumn, hidden: bool, transient: bool = False) -> Progress:
    """For a person, on stderr. Lines for stdout pass through it only where both are the one terminal."""
    screen, through = Console(stderr=True), sys.stdout.isatty()
    hidden = hidden or not screen.is_terminal
    return Progress(*columns, console=screen, disable=hidden, transient=transient, redirect_stdout=through)
