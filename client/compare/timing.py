"""Timing a server from outside: a closed loop over a fixed number of connections, on bare sockets."""

import asyncio
import math
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from client.access import TokenSource
from client.errors import ServerFailed
from client.load.generator import Generator
from client.load.plan import Observed, Requests, Run
from client.load.wire import post, precise_loop, resolved

ANSWER_SECONDS = 60


def timed(
    url: str, model: str, bodies: Sequence[bytes], connections: int, seconds: float = math.inf, content_type: str = ""
) -> tuple[NDArray[np.float64], float]:
    """Sends each body once, over `connections` that stay open; none after `seconds`, but one on each.

    Gives the latencies, and how many were answered in a second. Raises ServerFailed when an answer is another than 200.
    """
    token = TokenSource("inference", url).current() or ""
    headers = {"Content-Type": content_type, "Authorization": f"Bearer {token}"}
    sent = [post(urlsplit(url).netloc, f"/predictions/{model}", headers, body) for body in bodies]
    share = Run(seconds, ANSWER_SECONDS, min(connections, len(sent)), start=time.monotonic(), most=len(sent))

    async def observed() -> Observed:
        return await Generator(resolved(url), Requests(sent), share).run()

    with asyncio.Runner(loop_factory=precise_loop) as runner:
        found = runner.run(observed())
    if found.failed:
        raise ServerFailed(f"A request failed while it was timed: {found.failed[0][1]}.", model)
    answered = np.array(found.answered)
    return answered[:, 1] - answered[:, 0], len(answered) / float(answered[:, 1].max())
