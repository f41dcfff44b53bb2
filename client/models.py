"""`python -m client models`: what is served, and what runs it."""

from rich import box
from rich.table import Table

from client import Client
from client.connection import ANSWER_SECONDS, CONNECT_SECONDS, Retries
from client.errors import ServerFailed
from client.options import ManagementUrl, Seconds, console
from inference.tools.torchserve import ModelVersion

COLUMNS = ("model", "version", "runtime", "provider", "device", "precision", "ready", "weights")


def models(management_url: ManagementUrl = None, timeout: Seconds = ANSWER_SECONDS) -> None:
    """List the models that a server holds, with what computes their answers."""
    table = Table(*COLUMNS, box=box.SIMPLE)
    patience = (CONNECT_SECONDS, timeout)
    with Client(management_url=management_url, timeout=patience, retries=Retries(busy=1.0)) as client:
        for version in (version for name in client.models() for version in client.versions(name)):
            attested = _attested(client, version) if version.ready_workers else {}
            table.add_row(
                version.model,
                version.version,
                *(attested.get(field, "–") for field in ("runtime", "provider", "device", "precision")),
                f"{version.ready_workers} of {len(version.workers)}",
                attested.get("weights", "–")[:12],
            )
    console().print(table)


def _attested(client: Client, version: ModelVersion) -> dict[str, str]:
    """Empty where the model does not describe itself, which is then seen in the table."""
    try:
        return client.describe(f"{version.model}/{version.version}").attestation
    except ServerFailed:
        return {}
