"""What several commands take, and how they print tables."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

Url = Annotated[str, typer.Option(envvar="ENTERING_URL", help="The server's address for predictions.")]
ManagementUrl = Annotated[
    str, typer.Option(envvar="ENTERING_MANAGEMENT_URL", help="The server's address for management.")
]
Artifacts = Annotated[Path, typer.Option(help="Where training and export write.")]
Store = Annotated[Path, typer.Option(help="Where the archives are.")]


def console() -> Console:
    """As wide as the terminal; in a file or a pipe, as wide as our tables."""
    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)
