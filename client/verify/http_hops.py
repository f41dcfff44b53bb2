"""The hops over HTTP: each asks a running server for the goldens in its own way, and compares what comes back."""

import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np

from client.verify.asker import Asked, Asker
from inference import parity
from inference.selfcheck import Hop
from inference.tools.commands import CannotCheck

CONCURRENCY = 16
BATCHED_REQUESTS = 400
LOAD_REQUESTS = 1000
HOP_SECONDS = 8.0  # a hop with company sends no more after that, once it has sent every golden
ALONE_TRIES = 10
ALONE_PAUSE = 0.05


class HttpHops:
    """Checks the served model that `asker` asks."""

    def __init__(self, asker: Asker) -> None:
        self.asker, self.goldens = asker, asker.goldens

    def run(self) -> Iterator[Hop]:
        """Every golden with no company: as outputs, and as JSON, which must be made from just those.

        Then every golden among strangers: other goldens, whole arrays, and requests that must be refused. They must
        have met in a batch, unless a worker takes one at a time. Then many more, as fast as they are answered.
        """
        alone = [self._alone(partial(self.asker.outputs, row)) for row in range(len(self.goldens))]
        verdict = self._verdict(alone)
        if verdict.ok:
            pairs = [(one.rows[0], one.outputs) for one in alone if one.outputs is not None]
            alone += [self._alone(partial(self.asker.same_outputs, *pair)) for pair in pairs]
            verdict = self._verdict(alone)
        yield Hop("http", verdict)
        mixed = self._concurrently(self._ask_among_strangers, BATCHED_REQUESTS)
        verdict = self._verdict(mixed)
        if verdict.ok and self.asker.batches and all(one.was_alone for one in mixed if len(one.rows) == 1):
            hint = "Where the server takes one at a time, say so: --unbatched"
            raise CannotCheck(f"{self.asker.model}: no two of {len(mixed)} concurrent requests shared a batch. {hint}")
        yield Hop("http_batched", verdict)
        yield Hop("http_load", self._verdict(self._concurrently(self._ask_under_load, LOAD_REQUESTS)))

    def _alone(self, ask: Callable[[], Asked]) -> Asked:
        """Asks again where another's request came into the batch: the bits of a sum may depend on the batch's size."""
        for _ in range(ALONE_TRIES):
            asked = ask()
            if asked.was_alone or not asked.served:
                return asked
            time.sleep(ALONE_PAUSE)
        why = "other requests are being answered, so that none is alone in its batch"
        raise CannotCheck(f"{self.asker.model}: {why}. Verify when the server is quiet.")

    def _ask_among_strangers(self, turn: int) -> Asked:
        first, row, last = (number % len(self.goldens) for number in (turn + 1, turn, turn + 2))
        match turn % 7:
            case 0 if problem := self.asker.nonsense():
                return Asked([row], {}, problem=problem)
            case 1:
                return self.asker.rows([first, row, last])
            case 2:
                return self.asker.json(row, turn // 7)
            case 3:
                return self.asker.json_rows([first, row, last], turn // 7)
        return self.asker.outputs(row)

    def _ask_under_load(self, turn: int) -> Asked:
        row = turn % len(self.goldens)
        return self.asker.outputs(row) if turn % 5 else self.asker.json(row, turn // 5)

    def _concurrently(self, ask: Callable[[int], Asked], count: int) -> list[Asked]:
        """Up to `count` turns, `CONCURRENCY` in flight at a time. The first have every golden once, however long it
        takes; the others end after `HOP_SECONDS`. Each part is in random order, the same at each run.
        """
        rng, first, deadline = random.Random(0), min(count, len(self.goldens)), time.monotonic() + HOP_SECONDS
        needed, more = rng.sample(range(first), first), rng.sample(range(first, count), count - first)
        with ThreadPoolExecutor(CONCURRENCY) as workers:
            asked = workers.map(ask, needed)
            extra = workers.map(lambda turn: ask(turn) if time.monotonic() < deadline else None, more)
            return [*asked, *(one for one in extra if one)]

    def _verdict(self, asked: list[Asked]) -> parity.Comparison:
        """All outputs against eager's; red where any answer is wrong. JSON has been compared already, and counts."""
        limit = self.asker.limit
        problems = [f"{self.goldens.names[one.rows[0]]}: {one.problem}" for one in asked if one.problem]
        right = [one for one in asked if one.outputs is not None]
        if not right:
            sentence = f"All {len(asked)} are wrong: {problems[0]}"
            return parity.Comparison(False, 0, None, None, (), limit.atol, limit.rtol, sentence)
        expected = self.goldens[[row for one in right for row in one.rows]]
        slack = np.concatenate([np.full(len(one.rows), self.asker.slack_of(one.served)) for one in right])
        outputs = np.concatenate([one.outputs for one in right if one.outputs is not None])
        compared = sum(len(one.rows) for one in asked if not one.problem)
        verdict = replace(parity.compare(outputs, expected, limit, slack), compared=compared)
        if not problems:
            return verdict
        sentence = verdict.sentence or f"{len(problems)} of {len(asked)}: {problems[0]}"
        return replace(verdict, ok=False, sentence=sentence)
