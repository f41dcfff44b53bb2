"""One process that sends requests when they are due, or as fast as they are answered, and notes what becomes of each.

An open loop waits for no answer: a request whose turn has come takes a free connection, or a new one while there are
fewer than the plan allows, or waits for one; its latency counts from when it was due.
"""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from client.load.plan import Plan, Requests, Seen
from client.load.wire import Connection

SWEEP_SECONDS = 0.05  # how often it is looked for requests that have waited too long
PAUSE_SECONDS = 0.05  # before a closed loop tries again on a connection that failed


@dataclass(frozen=True)
class InFlight:
    due: float
    request: bytes
    golden: int | None


class Generator:
    """Carries out one plan. `address` is an IP address and a port."""

    def __init__(self, address: tuple[str, int], requests: Requests, plan: Plan) -> None:
        self.address, self.requests, self.plan, self.seen = address, requests, plan, Seen()
        self._loop = asyncio.get_running_loop()
        self._numbers = iter(range(plan.first, plan.most, plan.step))
        self._due: Iterator[float] = iter(() if plan.due is None else plan.due.tolist())
        self._idle: list[Connection] = []
        self._in_flight: dict[Connection, InFlight] = {}
        self._waiting: deque[InFlight] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._open = self._outstanding = 0
        self._scheduling = True
        self._over = self._loop.create_future()

    async def run(self) -> Seen:
        cpu = time.process_time()
        self._loop.call_at(self.plan.start, self._begin)
        await self._over
        for connection in [*self._idle, *self._in_flight]:
            connection.close()
        self.seen.cpu = (time.process_time() - cpu) / max(self._now(), self.plan.seconds)
        return self.seen

    def stop(self) -> None:
        """Sends no more. What is in flight is waited for, so that it burdens nobody who comes next."""
        self._scheduling = False
        self._check_over()

    def _now(self) -> float:
        return self._loop.time() - self.plan.start

    def _begin(self) -> None:
        self._sweep()
        if self.plan.due is None:
            self._loop.call_at(self.plan.start + self.plan.seconds, self.stop)
            for _ in range(self.plan.connections):
                self._next()
        else:
            self._tick(next(self._due, None))

    # Open loop.

    def _tick(self, due: float | None) -> None:
        """Takes in hand all that is due."""
        while due is not None and self._scheduling:
            late = self._now() - due
            if late < 0:
                self._loop.call_at(self.plan.start + due, self._tick, due)
                return
            self.seen.lateness.append(late)
            self._dispatch(due, next(self._numbers))
            due = next(self._due, None)
        self.stop()

    def _dispatch(self, due: float, number: int) -> None:
        self._outstanding += 1
        one = InFlight(due, *self.requests.pick(number))
        if self._idle:
            self._send(self._idle.pop(), one)
        elif self._open < self.plan.connections:
            self._connect(one)
        else:
            self.seen.waited += 1
            self._waiting.append(one)

    # Closed loop.

    def _next(self) -> None:
        number = next(self._numbers, None) if self._scheduling else None
        if number is None:
            self.stop()
        else:
            self._dispatch(self._now(), number)

    # Both.

    def _connect(self, one: InFlight) -> None:
        self._open += 1
        self.seen.connections = max(self.seen.connections, self._open)
        task = self._loop.create_task(self._opened(one))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _opened(self, one: InFlight) -> None:
        try:
            async with asyncio.timeout_at(self.plan.start + max(one.due, 0) + self.plan.timeout):
                _, connection = await self._loop.create_connection(lambda: Connection(self), *self.address)
        except TimeoutError:
            self._not_opened("no connection in time")
        except OSError as error:
            self._not_opened(f"no connection ({type(error).__name__})")
        else:
            self._send(connection, one)

    def _not_opened(self, reason: str) -> None:
        self._open -= 1
        self._failed(reason)
        self._replace()

    def _send(self, connection: Connection, one: InFlight) -> None:
        self._in_flight[connection] = one
        connection.send(one.request)

    def answered(self, connection: Connection, status: int, head: bytes, body: bytes) -> None:
        now, one = self._now(), self._in_flight.pop(connection, None)
        if one is None:
            connection.close()
            self.hung_up(connection, "")
            return
        if status == 200:
            self.seen.answered.append((one.due, now))
            self.seen.slow += now - one.due > self.plan.objective
            if one.golden is not None:
                self.seen.goldens.append((one.golden, head, body))
            self._ended_one()
        else:
            self._failed(f"HTTP {status}")
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        if connection.ended:
            connection.close()
            self._open -= 1
            self._replace(0)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)
            if self.plan.due is None:
                self._next()

    def hung_up(self, connection: Connection, reason: str) -> None:
        self._open -= 1
        if connection in self._idle:
            self._idle.remove(connection)
        if self._in_flight.pop(connection, None):
            self._failed(reason)
        self._replace()

    def _replace(self, pause: float = PAUSE_SECONDS) -> None:
        """After a connection has gone: another for who waits."""
        if self._waiting:
            self._connect(self._waiting.popleft())
        elif self.plan.due is None:
            self._loop.call_later(pause, self._next)

    def _failed(self, reason: str) -> None:
        self.seen.failed.append((self._now(), reason))
        self._ended_one()

    def _ended_one(self) -> None:
        self._outstanding -= 1
        self._check_over()

    def _check_over(self) -> None:
        if not self._scheduling and not self._outstanding and not self._over.done():
            self._over.set_result(None)

    def _sweep(self) -> None:
        """Gives up what was due too long ago."""
        if self._over.done():
            return
        self._loop.call_later(SWEEP_SECONDS, self._sweep)
        oldest, reason = self._now() - self.plan.timeout, f"no answer within {self.plan.timeout:g} s"
        while self._waiting and self._waiting[0].due < oldest:
            self._waiting.popleft()
            self._failed(reason)
        for connection in [connection for connection, one in self._in_flight.items() if one.due < oldest]:
            connection.close()
            self.hung_up(connection, reason)
