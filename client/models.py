"""`python -m client models`: what is served, and what runs it."""

from collections.abc import Iterator

from rich import box
from rich.table import Table

from client.client import Client
from client.connection import ANSWER_SECONDS, CONNECT_SECONDS, Retries
from client.errors import ServerFailed
from client.options import ManagementUrl, Seconds, console
from inference.tools.torchserve import ModelVersion

COLUMNS = ("model", "version", "runtime", "provider", "device", "precision", "ready", "weights")


def models(
    management_url: ManagementUrl = None,
    timeout: Seconds = ANSWER_SECONDS,
) -> None:
    """List the models that a server holds, with what computes their answers."""
    table = Table(*COLUMNS, box=box.SIMPLE)
    patience = (CONNECT_SECONDS, timeout)
    with Client(management_url=management_url, timeout=patience, retries=Retries(busy=1.0)) as client:
        for version in _versions(client):
            table.add_row(*_row(version))
    console().print(table)


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
