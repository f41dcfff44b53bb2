"""Which models to ask about where nobody says it."""

import sys
from contextlib import suppress

from client.client import Client
from client.errors import ServerFailed, Unreachable
from export.manifest import Manifest


def served_names(client: Client, manifest: Manifest) -> list[str]:
    """The models that the server says it serves; all of the store's where nothing answers at its management address.

    A container's is reachable from nowhere. That it was not asked is said on stderr. Raises Unreachable where nothing
    answers for predictions either.
    """
    try:
        return client.models()
    except Unreachable as error:
        if type(error) is not Unreachable:  # something is there, and too slow
            raise
    with suppress(ServerFailed):  # in what state the server is, is another question
        client.ping()
    names = list(manifest.archives)
    print(
        f"Nothing answers at {client.management_url} to say which models are served, so all {len(names)} of the store "
        "are taken to be.",
        file=sys.stderr,
    )
    return names
