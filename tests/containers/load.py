"""Constant load without retries: what every single request came to."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from itertools import cycle

import numpy as np

from inference.goldens import Goldens
from inference.outputs import Outputs
from inference.protocol import ATTESTED, JSON, NPY
from tests.containers.stack import MODEL, Stack

CONNECTIONS = 16


@dataclass(frozen=True)
class Answer:
    """`row` is the golden that was asked; `logits` is empty where the status is not 200."""

    row: int
    status: int
    version: str
    logits: Outputs
    text: str = ""


@dataclass
class Load:
    """Connections that are kept open, each of which asks one golden after the other.

    A connection asks no more when the server says that it closes it. `broken` holds what befell requests that were
    sent and not answered.
    """

    stack: Stack
    goldens: Goldens
    answers: list[Answer] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Under load from the first answer on, until the block ends."""
        token = self.stack.token()
        threads = [threading.Thread(target=self._ask, args=(token, number)) for number in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        try:
            self.wait_for(2 * CONNECTIONS)
            yield self
        finally:
            self._ended.set()
            for thread in threads:
                thread.join(90)

    def wait_for(self, more: int) -> None:
        """Returns when so many more answers have come."""
        goal, deadline = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < goal and not self.broken:
            assert time.monotonic() < deadline, f"{len(self.answers)} answers"
            time.sleep(0.02)

    def _ask(self, token: str, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.stack.workspace.port, timeout=60)
        headers = {"Authorization": f"Bearer {token}", "Accept": NPY}
        rows = cycle(range(number, number + len(self.goldens)))
        while not self._ended.is_set():
            row = next(rows) % len(self.goldens)
            try:
                connection.request("POST", f"/predictions/{MODEL}", self.goldens.requests[row], headers)
                response = connection.getresponse()
                self.answers.append(_answer(row, response))
            except (OSError, http.client.HTTPException) as error:
                self.broken.append(repr(error))
                return
            if response.will_close:
                return
        connection.close()


def _answer(row: int, response: http.client.HTTPResponse) -> Answer:
    body, version = response.read(), response.headers.get(ATTESTED["version"], "")
    if response.status != 200:
        assert response.headers["Content-Type"].startswith(JSON), body
        return Answer(row, response.status, version, np.empty(0, np.float32), body.decode())
    return Answer(row, 200, version, np.load(BytesIO(body)))
