"""What is put under load: a served model that answers right, and the requests that are sent to it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from requests.structures import CaseInsensitiveDict

from client.cannot_check import CannotCheck
from client.client import Client
from client.load.plan import Requests, Seen
from client.load.wire import headers_of, post, resolved
from client.payloads import ANY_BYTES, payload
from client.predict import image_files
from client.tokens import TokenSource
from client.verify.asker import Asker
from inference.protocol import JSON, NPY
from inference.store.archive import read_goldens
from inference.store.manifest import Manifest, check

MOST_FILES = 1_000  # which every process of the generator holds in memory


@dataclass(frozen=True)
class Target:
    """`files` are those that are sent, and none where the goldens are."""

    asker: Asker
    address: tuple[str, int]
    requests: Requests
    files: tuple[str, ...]

    def check(self, seen: Sequence[Seen]) -> tuple[int, list[str]]:
        """How many of the answers to goldens there are, and what is wrong with some of them."""
        found = [
            self.asker.recorded(row, CaseInsensitiveDict(headers_of(head)), body)
            for one in seen
            for row, head, body in one.goldens
        ]
        return len(found), [sentence for sentence in found if sentence]


def target(client: Client, name: str, store: Path, data: Sequence[str], golden_every: int) -> Target:
    """Raises ValueError or ClientError where nothing can be sent, CannotCheck where another archive answers."""
    parts = urlsplit(client.url)
    if parts.scheme != "http":
        raise ValueError(f"{client.url}: load speaks plain HTTP. Give the address of the server behind the TLS.")
    files = _files(data)
    bodies = [payload(file) for file in files]
    archive = Manifest.read(store).choose([name])[name]
    check(store, {name: archive})
    asker = Asker(client, name, archive, read_goldens(store / archive.file))
    if problem := asker.outputs(0).problem:
        raise CannotCheck(f"{name} cannot be put under load. {problem}")
    headers = {"Authorization": f"Bearer {TokenSource('inference', client.url).current() or ''}", "Accept": JSON}

    def request(body: bytes, **fields: str) -> bytes:
        named = {key.replace("_", "-"): value for key, value in fields.items()}
        return post(parts.netloc.rpartition("@")[2], f"/predictions/{name}", headers | named, body)

    goldens = [request(body, Content_Type=ANY_BYTES, Accept=NPY) for body in asker.goldens.requests]
    sent = [request(one.body, Content_Type=one.content_type) for one in bodies]
    sent = sent or [request(body, Content_Type=ANY_BYTES) for body in asker.goldens.requests]
    return Target(asker, resolved(client.url), Requests(sent, goldens, golden_every), files)


def _files(data: Sequence[str]) -> tuple[str, ...]:
    found = [file for source in data for file in image_files(source)]
    if len(found) > MOST_FILES:
        print(f"Of {len(found):,} files the first {MOST_FILES:,} are sent.", file=sys.stderr)
    return tuple(found[:MOST_FILES])
