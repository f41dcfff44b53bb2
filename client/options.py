"""What several commands take, and how they print tables."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from client.addresses import MANAGEMENT_URL_VARIABLE, PORT_VARIABLE, URL_VARIABLE
from inference.tools.torchserve import PORT

Url = Annotated[
    str | None,
    typer.Option(
        envvar=URL_VARIABLE,
        show_default=f"port ${PORT_VARIABLE}, or {PORT}, of this machine",
        help="The server's address for predictions.",
    ),
]
ManagementUrl = Annotated[
    str | None,
    typer.Option(
        envvar=MANAGEMENT_URL_VARIABLE,
        show_default=f"the port after ${PORT_VARIABLE}, or {PORT + 1}, of this machine",
        help="The server's address for management.",
    ),
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
