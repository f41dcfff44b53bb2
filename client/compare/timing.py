"""Timing a server from outside: a closed loop over a fixed number of connections, on bare sockets."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from client.errors import ServerFailed
from client.load.generator import Generator
from client.load.plan import Plan, Requests, Seen
from client.load.wire import post, precise_loop, resolved
from client.tokens import TokenSource

NEVER = 1 << 62
ANSWER_SECONDS = 60


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

    def time(self, bodies: Sequence[bytes], connections: int, seconds: float = math.inf) -> Timing:
        """Sends each body once, over `connections` that stay open; none after `seconds`, but one on each.

        Raises ServerFailed when an answer is another than 200.
        """
        headers = {"Content-Type": self.content_type, "Authorization": f"Bearer {self._token()}"}
        path, host = f"/predictions/{self.model}", urlsplit(self.url).netloc
        sent = [post(host, path, headers, body) for body in bodies]
        start = time.monotonic()
        plan = Plan(start, seconds, min(connections, len(sent)), ANSWER_SECONDS, most=len(sent))
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            seen = runner.run(self._seen(Requests(sent, sent[:1], NEVER), plan))
        if seen.failed:
            raise ServerFailed(f"A request failed while it was timed: {seen.failed[0][1]}.", self.model)
        answered = np.array(seen.answered)
        return Timing(answered[:, 1] - answered[:, 0], float(answered[:, 1].max()))

    async def _seen(self, requests: Requests, plan: Plan) -> Seen:
        return await Generator(resolved(self.url), requests, plan).run()

    def _token(self) -> str:
        return TokenSource("inference", self.url).current() or ""
