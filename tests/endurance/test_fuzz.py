"""Bodies and headers of any kind: each is answered soon, as its sender's fault or right, and no worker dies of them."""

import http.client
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.protocol import NPY
from tests.endurance.bodies import TYPES, Sent, anything, requests
from tests.endurance.length import length
from tests.served.live import MODEL, Live
from tests.unit.test_inputs import outcome
from training.contract import ImageInput
from training.models import digits, photos

EXAMPLES = length(short=300, full=20_000)
PATIENCE = pytest.mark.timeout(length(short=180, full=3600))
SLOW = 2.0  # seconds at the client, of a server that does nothing else


@dataclass
class Fuzzed:
    """One connection, that is made anew when the server has closed it."""

    port: int
    token: str
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: float = 0.0
    _connection: http.client.HTTPConnection | None = None

    def send(self, sent: Sent) -> tuple[int, float]:
        """The answer's status, and its seconds; what takes too long is sent again, in case the machine was busy."""
        status, seconds = self._timed(sent)
        if seconds > SLOW:
            status, seconds = self._timed(sent)
        self.statuses[status] += 1
        self.slowest = max(self.slowest, seconds)
        return status, seconds

    def _timed(self, sent: Sent) -> tuple[int, float]:
        start = time.perf_counter()
        connection = self._connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.putrequest("POST", f"/predictions/{MODEL}", skip_accept_encoding=True)
        fixed = (("Authorization", f"Bearer {self.token}"), ("Content-Length", str(len(sent.body))))
        for name, value in (*fixed, *sent.headers):
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(sent.body)
        response = connection.getresponse()
        response.read()
        self._connection = None if response.will_close else connection
        return response.status, time.perf_counter() - start


@PATIENCE
def test_whatever_is_sent_is_answered_soon_with_no_5xx_and_no_worker_dies(
    live: Live, say: Callable[[str], None]
) -> None:
    server, workers = Fuzzed(live.workspace.port, live.token()), live.workers()

    @settings(max_examples=EXAMPLES)
    @given(requests(live.goldens("1.0").requests))
    def fuzz(sent: Sent) -> None:
        status, seconds = server.send(sent)
        assert status < 500
        assert seconds < SLOW

    fuzz()
    answered = ", ".join(f"{number:,} × {status}" for status, number in sorted(server.statuses.items()))
    say(f"\nBodies and headers over HTTP: {answered}; the slowest took {server.slowest * 1e3:.0f} ms")
    assert {200, 400} <= server.statuses.keys()
    assert live.workers() == workers


@PATIENCE
@pytest.mark.parametrize("spec", [digits.INPUT, photos.INPUT], ids=["digits", "photos"])
def test_whatever_is_decoded_is_a_batch_or_bad_input(live: Live, spec: ImageInput) -> None:
    @settings(max_examples=EXAMPLES)
    @given(anything(live.goldens("1.0").requests), st.sampled_from(TYPES) | st.just(NPY))
    def fuzz(body: bytes, content_type: str) -> None:
        outcome(body, spec, content_type)

    fuzz()
