"""Timing a server from outside: a closed loop over a fixed number of connections, on bare sockets."""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPConnection
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from client.errors import ServerFailed
from client.tokens import TokenSource


@dataclass(frozen=True)
class Timing:
    """`latencies` in seconds, one for each request, and the seconds that all of them took together."""

    latencies: NDArray[np.float64]
    wall: float

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.wall

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.latencies, percent))


@dataclass(frozen=True)
class Target:
    """A served model. `content_type` is that of every body sent to it."""

    url: str
    model: str
    content_type: str = ""

    def time(self, bodies: Sequence[bytes], connections: int) -> Timing:
        """Sends each body once, over `connections` that stay open. Raises ServerFailed at the first answer but 200."""
        shares = [bodies[index::connections] for index in range(connections)]
        start = time.perf_counter()
        with ThreadPoolExecutor(connections) as workers:
            latencies = list(workers.map(self._one_connection, shares))
        return Timing(np.concatenate(latencies), time.perf_counter() - start)

    def _one_connection(self, bodies: Sequence[bytes]) -> NDArray[np.float64]:
        address = urlsplit(self.url)
        assert address.hostname
        connection = HTTPConnection(address.hostname, address.port, timeout=60)
        headers = {"Content-Type": self.content_type, "Authorization": f"Bearer {self._token()}"}
        latencies = np.empty(len(bodies))
        for index, body in enumerate(bodies):
            start = time.perf_counter()
            connection.request("POST", f"/predictions/{self.model}", body, headers)
            response = connection.getresponse()
            words = response.read()
            latencies[index] = time.perf_counter() - start
            if response.status != 200:
                raise ServerFailed(words.decode(errors="replace"), self.model, response.status)
        connection.close()
        return latencies

    def _token(self) -> str:
        return TokenSource("inference", self.url).current() or ""
