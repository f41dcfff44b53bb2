"""Bodies and headers of any kind: each is answered soon, as its sender's fault or right, and no worker dies of them."""

import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from client.load.wire import resolved
from client.payloads import ANY_BYTES
from inference.inputs.image import ImageInput
from inference.protocol import NPY
from models import digits, photos
from tests.endurance.bodies import TYPES, Sent, anything, requests
from tests.endurance.length import length
from tests.served.live import MODEL, Live
from tests.unit.test_inputs import outcome

EXAMPLES = length(short=300, full=20_000)
PATIENCE = pytest.mark.timeout(length(short=180, full=3600))
SLOW = 2.0  # seconds at the client, of a server that does nothing else
AS_CLIENTS_ASK = (("Content-Type", ANY_BYTES), ("Accept", NPY))


# TorchServe's own 500s for a form whose header names no boundary, or whose part has no name: Netty's form decoder fails
# in Java before a worker is asked. Nobody stands between a local client and TorchServe who could say 400 instead.
OF_FORMS = ("StringIndexOutOfBoundsException", "ErrorDataDecoderException")

# After it TorchServe takes the body, which came along, for the next request: its connection is of no more use.
EXPECTATION_FAILED = 417

TRIES = 3  # the server may hang up on an unreadable header so soon that its answer is lost with the connection


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    seconds: float

    @property
    def is_failure(self) -> bool:
        return self.status >= 500 and json.loads(self.body)["type"] not in OF_FORMS


@dataclass
class Fuzzed:
    """One connection, that is made anew when the server has closed it."""

    address: tuple[str, int]
    token: str
    answers: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    _socket: socket.socket | None = None

    def send(self, sent: Sent) -> Answer:
        """What takes too long is sent again, by itself, in case the machine was busy elsewhere."""
        answer = self._timed(sent)
        if answer.seconds > SLOW:
            answer = self._timed(sent)
        self.answers[answer.status] += 1
        self.slowest = max(self.slowest, answer.seconds)
        return answer

    def _timed(self, sent: Sent, tries: int = TRIES) -> Answer:
        start, connection = time.perf_counter(), self._socket or socket.create_connection(self.address, 60)
        self._socket = None
        response = http.client.HTTPResponse(connection)
        try:
            connection.sendall(self._request(sent))
            response.begin()
            body = response.read()
        except (BrokenPipeError, ConnectionResetError):
            connection.close()
            if tries == 1:
                raise
            return self._timed(sent, tries - 1)
        if response.will_close or response.status == EXPECTATION_FAILED:
            connection.close()
        else:
            self._socket = connection
        return Answer(response.status, body, time.perf_counter() - start)

    def _request(self, sent: Sent) -> bytes:
        fixed = (("Host", "x"), ("Authorization", f"Bearer {self.token}"), ("Content-Length", str(len(sent.body))))
        lines = "".join(f"{name}: {value}\r\n" for name, value in (*fixed, *sent.headers))
        return f"POST /predictions/{MODEL} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + sent.body


@PATIENCE
def test_whatever_is_sent_is_answered_soon_with_no_5xx_and_no_worker_dies(
    live: Live, say: Callable[[str], None]
) -> None:
    server, workers = Fuzzed(resolved(live.workspace.url), live.token()), live.workers()
    known = live.goldens("1.0").requests

    @settings(max_examples=EXAMPLES)
    @given(requests(known))
    @example(Sent(AS_CLIENTS_ASK, known[0]))  # answered 200
    @example(Sent(AS_CLIENTS_ASK, b"seven"))  # answered 400
    def fuzz(sent: Sent) -> None:
        answer = server.send(sent)
        assert not answer.is_failure, answer
        assert answer.seconds < SLOW

    fuzz()
    answered = ", ".join(f"{number:,} × {status}" for status, number in sorted(server.answers.items()))
    say(f"\nBodies and headers over HTTP: {answered}; the slowest took {server.slowest * 1e3:.0f} ms")
    assert {200, 400} <= server.answers.keys()
    assert live.workers() == workers


@PATIENCE
@pytest.mark.parametrize("spec", [digits.INPUT, photos.INPUT], ids=["digits", "photos"])
def test_whatever_is_decoded_is_a_batch_or_bad_input(live: Live, spec: ImageInput) -> None:
    @settings(max_examples=EXAMPLES)
    @given(anything(live.goldens("1.0").requests), st.sampled_from(TYPES) | st.just(NPY))
    def fuzz(body: bytes, content_type: str) -> None:
        outcome(body, spec, content_type)

    fuzz()
