"""What is put under load: a served model that answers right, and the requests that are sent to it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from requests.structures import CaseInsensitiveDict

from client import Client
from client.access import TokenSource
from client.load.plan import Observed, Requests
from client.load.wire import post, resolved
from client.payloads import ANY_BYTES, payload
from client.predict import image_files
from client.verify.asker import Asker
from inference.protocol import JSON, NPY
from inference.store.archive import read_goldens
from inference.store.manifest import Manifest, check
from inference.tools.commands import CannotCheck

MOST_FILES = 1_000  # which every process of the generator holds in memory


@dataclass(frozen=True)
class Target:
    """`files` are those that are sent, and none where the goldens are."""

    asker: Asker
    address: tuple[str, int]
    requests: Requests
    files: tuple[str, ...]

    def check(self, observed: Sequence[Observed]) -> tuple[int, list[str]]:
        """How many of the answers to goldens there are, and what is wrong with some of them."""
        found = [
            self.asker.recorded(row, CaseInsensitiveDict(headers), body)
            for one in observed
            for row, headers, body in one.goldens
        ]
        return len(found), [sentence for sentence in found if sentence]


def prepared(client: Client, name: str, store: Path, data: Sequence[str], golden_every: int) -> Target:
    """Raises ValueError or ClientError where nothing can be sent, CannotCheck where another archive answers."""
    parts = urlsplit(client.url)
    if parts.scheme != "http":
        raise ValueError(f"{client.url}: load speaks plain HTTP. Give the address of the server behind the TLS.")
    files = [file for source in data for file in image_files(source)]
    if len(files) > MOST_FILES:
        print(f"Of {len(files):,} files the first {MOST_FILES:,} are sent.", file=sys.stderr)
    bodies = [payload(file) for file in files[:MOST_FILES]]
    archive = Manifest.read(store).choose([name])[name]
    check(store, {name: archive})
    asker = Asker(client, name, archive, read_goldens(store / archive.file))
    if problem := asker.outputs(0).problem:
        raise CannotCheck(f"{name} cannot be put under load. {problem}")
    token = TokenSource("inference", client.url).current() or ""

    def request(body: bytes, content_type: str, accept: str = JSON) -> bytes:
        headers = {"Authorization": f"Bearer {token}", "Accept": accept, "Content-Type": content_type}
        return post(parts.netloc.rpartition("@")[2], f"/predictions/{name}", headers, body)

    goldens = [request(body, ANY_BYTES, NPY) for body in asker.goldens.requests]
    own = [request(one.body, one.content_type) for one in bodies]
    sent = own or [request(body, ANY_BYTES) for body in asker.goldens.requests]
    return Target(asker, resolved(client.url), Requests(sent, goldens, golden_every), tuple(files[:MOST_FILES]))
