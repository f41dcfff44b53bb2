"""One process that sends requests when they are due, or as fast as they are answered, and notes what becomes of each.

An open loop waits for no answer: a request whose turn has come takes a free connection, or a new one while there are
fewer than the run allows, or waits for one; its latency counts from when it was due.
"""

import asyncio
import gc
import os
import signal
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection

from client.load.plan import Observed, Requests, Run
from client.load.wire import Headers, HttpConnection, precise_loop

SWEEP_SECONDS = 0.05  # how often it is looked for requests that have waited too long
PAUSE_SECONDS = 0.05  # before a closed loop tries again on a connection that failed
REPORT_SECONDS = 0.2


@dataclass(frozen=True)
class InFlight:
    due: float
    request: bytes
    golden: int | None
    beginning: bytes


class Generator:
    """Carries out its share of a run. `address` is an IP address and a port."""

    def __init__(self, address: tuple[str, int], requests: Requests, run: Run) -> None:
        self.address, self.requests, self.share, self.observed = address, requests, run, Observed()
        self._loop = asyncio.get_running_loop()
        self._numbers = iter(range(run.first, run.most, run.step))
        self._due: Iterator[float] = iter(() if run.due is None else run.due.tolist())
        self._idle: list[HttpConnection] = []
        self._in_flight: dict[HttpConnection, InFlight] = {}
        self._waiting: deque[InFlight] = deque()
        self._opening: set[asyncio.Task[None]] = set()
        self._open = self._outstanding = 0
        self._scheduling = True
        self._over = self._loop.create_future()

    async def run(self) -> Observed:
        cpu = time.process_time()
        self._loop.call_at(self.share.start, self._begin)
        await self._over
        for connection in [*self._idle, *self._in_flight]:
            connection.close()
        self.observed.cpu = time.process_time() - cpu
        self.observed.seconds = max(self._now(), self.share.seconds)
        return self.observed

    def stop(self) -> None:
        """Sends no more. What is in flight is waited for, so that it is no burden on the next run."""
        self._scheduling = False
        self._check_over()

    def _now(self) -> float:
        return self._loop.time() - self.share.start

    def _begin(self) -> None:
        self._sweep()
        if self.share.due is None:
            self._loop.call_at(self.share.start + self.share.seconds, self.stop)
            for _ in range(self.share.connections):
                self._next()
        else:
            self._tick(next(self._due, None))

    def _tick(self, due: float | None) -> None:
        """An open loop takes in hand all that is due."""
        while due is not None and self._scheduling:
            late = self._now() - due
            if late < 0:
                self._loop.call_at(self.share.start + due, self._tick, due)
                return
            self.observed.lateness.append(late)
            self._dispatch(due, next(self._numbers))
            due = next(self._due, None)
        self.stop()

    def _next(self) -> None:
        """A closed loop sends the next request."""
        number = next(self._numbers, None) if self._scheduling else None
        if number is None:
            self.stop()
        else:
            self._dispatch(self._now(), number)

    def _dispatch(self, due: float, number: int) -> None:
        self._outstanding += 1
        one = InFlight(due, *self.requests.pick(number))
        if self._idle:
            self._send(self._idle.pop(), one)
        elif self._open < self.share.connections:
            self._connect(one)
        else:
            self.observed.waited += 1
            self._waiting.append(one)

    def _connect(self, one: InFlight) -> None:
        self._open += 1
        self.observed.connections = max(self.observed.connections, self._open)
        task = self._loop.create_task(self._opened(one))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _opened(self, one: InFlight) -> None:
        try:
            async with asyncio.timeout_at(self.share.start + max(one.due, 0) + self.share.timeout):
                new = partial(HttpConnection, self._answered, self._hung_up)
                _, connection = await self._loop.create_connection(new, *self.address)
        except OSError as error:
            late = isinstance(error, TimeoutError)
            self._failed("no connection in time" if late else f"no connection ({type(error).__name__})")
            self._replace()
        else:
            self._send(connection, one)

    def _send(self, connection: HttpConnection, one: InFlight) -> None:
        self._in_flight[connection] = one
        connection.send(one.request)

    def _answered(self, connection: HttpConnection, status: int, headers: Headers, body: bytes) -> None:
        now, one = self._now(), self._in_flight.pop(connection, None)
        if one is None:  # not asked for
            connection.close()
            self._hung_up(connection, "")
            return
        if status != 200:
            self._failed(f"HTTP {status}")
        elif not body.startswith(one.beginning):
            self._failed(f"200: {body[:80].decode(errors='replace')}")
        else:
            self.observed.answered.append((one.due, now))
            self.observed.slow += now - one.due > self.share.objective
            if one.golden is not None:
                fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
                self.observed.goldens.append((one.golden, fields, body))
            self._ended_one()
        if connection.ended:
            connection.close()
            self._replace(0)
        elif self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)
            if self.share.due is None:
                self._next()

    def _hung_up(self, connection: HttpConnection, reason: str) -> None:
        if connection in self._idle:
            self._idle.remove(connection)
        if self._in_flight.pop(connection, None):
            self._failed(reason)
        self._replace()

    def _replace(self, pause: float = PAUSE_SECONDS) -> None:
        """After a connection has gone: another for who waits."""
        self._open -= 1
        if self._waiting:
            self._connect(self._waiting.popleft())
        elif self.share.due is None:
            self._loop.call_later(pause, self._next)

    def _failed(self, reason: str) -> None:
        self.observed.failed.append((self._now(), reason))
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
        oldest, reason = self._now() - self.share.timeout, f"no answer within {self.share.timeout:g} s"
        while self._waiting and self._waiting[0].due < oldest:
            self._waiting.popleft()
            self._failed(reason)
        for connection in [connection for connection, one in self._in_flight.items() if one.due < oldest]:
            connection.close()
            self._hung_up(connection, reason)


def carry_out_runs(pipe: Connection) -> None:
    """A whole process: where to send what comes through the pipe, then its share of each run. It ends with the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's affair
    address, requests = pipe.recv()
    pipe.send("ready")
    gc.disable()  # a collection in the middle of a run would make requests late
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        while True:
            try:
                run = pipe.recv()
            except EOFError:
                return
            if run is not None:  # an order to stop that came after the end
                pipe.send(runner.run(_reported(pipe, address, requests, run)))
                gc.collect()


async def _reported(pipe: Connection, address: tuple[str, int], requests: Requests, run: Run) -> Observed:
    loop, generator = asyncio.get_running_loop(), Generator(address, requests, run)

    def stop() -> None:
        try:
            pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the parent is gone, so that the rest would be for nothing
        generator.stop()

    async def report() -> None:
        while True:
            pipe.send(generator.observed.progress)
            await asyncio.sleep(REPORT_SECONDS)

    loop.add_reader(pipe.fileno(), stop)
    reporter = loop.create_task(report())
    try:
        return await generator.run()
    finally:
        reporter.cancel()
        loop.remove_reader(pipe.fileno())
