"""Which models to ask about where the command line names none."""

import sys
from contextlib import suppress

from client import Client
from client.errors import ServerFailed, Unreachable
from inference.store.manifest import Manifest


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
