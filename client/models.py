"""`python -m client models`: what is served, and what runs it."""

import sys
from collections.abc import Iterator
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from client.catalogue import ModelVersion
from client.client import MANAGEMENT_URL, Client
from client.connection import Retries
from client.errors import ServerFailed

COLUMNS = ("model", "version", "runtime", "provider", "device", "precision", "workers ready", "weights")


def models(
    management_url: Annotated[str, typer.Option(help="The server's address for management.")] = MANAGEMENT_URL,
) -> None:
    """List the models that a server holds, with what computes their answers."""
    table = Table(*COLUMNS, box=box.SIMPLE)
    with Client(management_url=management_url, retries=Retries(busy=1.0)) as client:
        for version in _versions(client):
            table.add_row(*_row(version))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _versions(client: Client) -> Iterator[ModelVersion]:
    for name in client.models():
        for version in client.versions(name):
            yield _described(client, version) if version.ready_workers else version


def _described(client: Client, version: ModelVersion) -> ModelVersion:
    """Without its own words where the model has none to give, which is then seen in the table."""
    try:
        return client.describe(f"{version.model}/{version.version}")
    except ServerFailed:
        return version


def _row(version: ModelVersion) -> list[str]:
    attested = version.attestation
    return [
        version.model,
        version.version,
        *(attested.get(field, "–") for field in ("runtime", "provider", "device", "precision")),
        f"{version.ready_workers} of {len(version.workers)}",
        attested.get("weights", "–")[:12],
    ]
