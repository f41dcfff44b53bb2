"""`python -m client.generate FD`: a process of `client load`, which carries out the plans that come through a pipe."""

import asyncio
import gc
import os
import signal
import sys
from multiprocessing.connection import Connection

from client.load.generator import Generator
from client.load.plan import Plan, Requests, Seen
from client.load.wire import precise_loop

REPORT_SECONDS = 0.2


def main() -> None:
    """Ends when the pipe does. Ctrl-C is the parent's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(int(sys.argv[1]))
    address, requests = pipe.recv()
    gc.disable()  # a collection in the middle of a run would make requests late
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        while True:
            try:
                plan = pipe.recv()
            except EOFError:
                return
            if plan is not None:  # an order to stop that came after the end
                pipe.send(runner.run(_run(pipe, address, requests, plan)))
                gc.collect()


async def _run(pipe: Connection, address: tuple[str, int], requests: Requests, plan: Plan) -> Seen:
    loop, generator = asyncio.get_running_loop(), Generator(address, requests, plan)

    def stop() -> None:
        try:
            pipe.recv()
        except EOFError:
            os._exit(1)  # the parent is gone, and nobody wants the rest
        generator.stop()

    async def report() -> None:
        while True:
            pipe.send(generator.seen.progress)
            await asyncio.sleep(REPORT_SECONDS)

    loop.add_reader(pipe.fileno(), stop)
    reporter = loop.create_task(report())
    try:
        return await generator.run()
    finally:
        reporter.cancel()
        loop.remove_reader(pipe.fileno())


if __name__ == "__main__":
    main()
