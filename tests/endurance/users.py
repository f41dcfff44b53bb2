"""Those who ask at once: some rightly, some garbage, some bit by bit, and some who don't stay for the answer."""

import http.client
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import requests

from client.client import Client
from client.connection import pooled_session
from client.errors import LOST, ClientError, Rejected
from client.load.wire import post, resolved
from client.payloads import ANY_BYTES
from inference.protocol import ATTESTED, NPY
from models.digits import LABELS
from tests.endurance.tally import Right, Tally, judge
from tests.served.live import MODEL, Live

ASKERS, DRIBBLERS, LEAVERS = 4, 4, 2
PAUSE = 0.02  # the server, its workers and the commands need the cores too
GARBAGE = 0.05  # of what is asked by those who ask rightly
PIECES, PIECE_PAUSE = 20, 0.25  # of a request that comes slowly, in five seconds; counted as "byte by byte"
LOST_STATUSES = (500, 503, LOST)  # what a request that is sent once may meet when its worker is killed
RESET = struct.pack("ii", 1, 0)  # SO_LINGER for no time: the connection ends with a reset instead of a goodbye


@dataclass(frozen=True)
class Users:
    """Each `use` is one request of a kind, counted in `tally`."""

    client: Client
    address: tuple[str, int]
    headers: dict[str, str]
    right: Right
    tally: Tally
    ended: threading.Event

    def ask(self, draw: random.Random) -> None:
        row = draw.randrange(len(self.right.requests))
        body = self.right.requests[row]
        try:
            if draw.random() < GARBAGE:
                self._ask_garbage(draw, body)
            elif draw.random() < 0.5:
                logits, attested = self.client.attested_outputs(body, MODEL)
                judge(self.tally, "logits", row, self.right.versions_of_logits(logits, row), attested["version"])
            else:
                answer = self.client.predict(body, MODEL, top_k=len(LABELS))
                judge(self.tally, "JSON", row, self.right.versions_of_json(answer, row), answer.served["version"])
        except ClientError as error:
            self.tally.lost.append(repr(error))
        self.ended.wait(PAUSE)

    def _ask_garbage(self, draw: random.Random, body: bytes) -> None:
        kinds = (draw.randbytes(300), body[: len(body) // 3], b"seven", b"\x93NUMPY\x01\0" + body, b"GIF89a" + body)
        try:
            self.client.predict(draw.choice(kinds), MODEL)
            self.tally.wrong.append("garbage was answered")
        except Rejected as error:
            self.tally.count(f"garbage answered {error.status}")

    def dribble(self, draw: random.Random) -> None:
        row = draw.randrange(len(self.right.requests))
        request = self._request(row)
        step = -(-len(request) // PIECES)
        with socket.create_connection(self.address, 60) as connection:
            for start in range(0, len(request), step):
                connection.sendall(request[start : start + step])
                self.ended.wait(PIECE_PAUSE)
            response = http.client.HTTPResponse(connection)
            response.begin()
            self._judge_dribbled(response, row)

    def _judge_dribbled(self, response: http.client.HTTPResponse, row: int) -> None:
        body, version = response.read(), response.headers.get(ATTESTED["version"], "")
        if response.status == 200:
            versions = self.right.versions_of_logits(np.load(BytesIO(body)), row)
            judge(self.tally, "byte by byte", row, versions, version)
        elif response.status in LOST_STATUSES:
            self.tally.count("byte by byte, and its worker was killed")
        else:
            self.tally.wrong.append(f"byte by byte: {response.status} {body[:200]!r}")

    def leave(self, draw: random.Random) -> None:
        """In the middle of the request, or with all of it sent; politely, or not."""
        request = self._request(draw.randrange(len(self.right.requests)))
        whole = draw.random() < 0.5
        with socket.create_connection(self.address, 60) as connection:
            connection.sendall(request if whole else request[: draw.randrange(1, len(request))])
            if draw.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.tally.count("left before the answer" if whole else "left in the middle of the request")
        self.ended.wait(draw.uniform(0.1, 0.9))

    def _request(self, row: int) -> bytes:
        return post("127.0.0.1", f"/predictions/{MODEL}", self.headers, self.right.requests[row])

    def crowd(self) -> Iterator[Callable[[random.Random], None]]:
        yield from [self.ask] * ASKERS + [self.dribble] * DRIBBLERS + [self.leave] * LEAVERS


@contextmanager
def using(live: Live, right: Right, seed: int) -> Iterator[Tally]:
    """All of them ask from the beginning of the block to its end. What none of them should meet is raised then."""
    tally, ended, token = Tally(), threading.Event(), live.token()
    headers = {"Authorization": f"Bearer {token}", "Accept": NPY, "Content-Type": ANY_BYTES}
    with _client(live, token, tally) as client:
        users = Users(client, resolved(live.workspace.url), headers, right, tally, ended)
        crowd = list(users.crowd())
        with ThreadPoolExecutor(len(crowd)) as pool:
            draws = [random.Random(f"{seed} {number}") for number in range(len(crowd))]
            used = [pool.submit(_repeated, *both, ended) for both in zip(crowd, draws, strict=True)]
            try:
                yield tally
            finally:
                ended.set()
        for one in used:
            one.result()


def _repeated(use: Callable[[random.Random], None], draw: random.Random, ended: threading.Event) -> None:
    while not ended.is_set():
        use(draw)


def _client(live: Live, token: str, tally: Tally) -> Client:
    """With the retries that everybody has; the answers that made it ask again are counted."""

    def seen(response: requests.Response, **_: object) -> None:
        if response.status_code >= 500:
            tally.count(f"asked again after {response.status_code}")

    session = pooled_session(ASKERS, trust_env=False)
    session.hooks["response"].append(seen)
    return live.workspace.client(token=token, session=session)
