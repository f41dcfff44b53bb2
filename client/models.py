"""`python -m client models`: what is served, and what runs it."""

import sys
from contextlib import suppress

from rich import box
from rich.table import Table

from client import Client
from client.connection import ANSWER_SECONDS, CONNECT_SECONDS, Retries
from client.errors import ServerFailed, Unreachable
from client.options import ManagementUrl, Seconds, console
from inference.store.manifest import Manifest
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


def served_names(client: Client, manifest: Manifest) -> list[str]:
    """The models that the server says it serves; all of the store's where it can't be asked, and a line on stderr.

    A container's management interface is reachable from nowhere, and its key file holds no token for one. Raises
    Unreachable where nothing answers for predictions either.
    """
    why = "There is a token for predictions and none for management"
    if not client.predicts_only:
        try:
            return client.models()
        except Unreachable as error:
            if type(error) is not Unreachable:  # something is there, and too slow
                raise
        why = f"Nothing answers at {client.management_url}"
    with suppress(ServerFailed):  # in what state the server is, is another question
        client.ping()
    names = list(manifest.archives)
    sentence = f"{why}, to say which models are served, so all {len(names)} of the store are taken to be."
    print(sentence, file=sys.stderr)
    return names
