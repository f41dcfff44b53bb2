"""One contender, started, measured and stopped once."""

import json
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import requests
from numpy.typing import NDArray

from benchmarks.contenders import Launch, Place, Subject, archive_environment
from benchmarks.processes import Cores, Tree, launch, pinned, spent
from client.connection import pooled_session
from client.load.generators import Generators
from client.load.plan import Requests, Run
from client.load.wire import post
from inference import parity
from inference.inputs import CPU
from inference.inputs.image import NVJPEG
from inference.protocol import ATTESTED, NPY

START_SECONDS = 120
ANSWER_SECONDS = 60
LOOK_SECONDS = 0.05


class NotRunning(Exception):
    """The contender can't be measured; the message holds its own last words."""


@dataclass(frozen=True)
class Plan:
    """How one contender is measured: these pictures, whose right answers begin with `right`, by so many processes."""

    pictures: list[str]
    right: list[str]
    workers: int
    connections: int
    warm_up: float
    seconds: float
    cores: Cores


Round = dict[str, Any]


def alone(subject: Subject, plan: Plan, folder: Path) -> Round:
    """In process, without a server: as many processes as a server would have."""
    with _alone(subject, plan, folder) as (trees, started):
        _commanded(trees, f"run {plan.warm_up}")
        seen = _commanded(trees, f"run {plan.seconds}")
        memory = sum(tree.memory() for tree in trees)
        [file] = _commanded(trees[:1], f"goldens {folder / 'goldens.npy'}")
    return {
        **_timing([latency for one in seen for latency in one["latencies"]], plan.seconds),
        "cpu_s": sum(one["cpu_s"] for one in seen) / sum(one["answered"] for one in seen),
        "programs": {},
        "generator_cpu_s": 0.0,
        "memory_bytes": memory,
        "start_s": started,
        "errors": {},
        "verdict": _verdict(np.load(file), subject),
    }


def answers(subject: Subject, plan: Plan, folder: Path) -> list[str]:
    """What the archive itself answers to each picture."""
    with _alone(subject, replace(plan, workers=1), folder) as (trees, _):
        [found] = _commanded(trees[:1], "answers")
    return list(found)


def steps(subject: Subject, plan: Plan, folder: Path) -> dict[str, float]:
    """Where the time goes in one process, in seconds for a picture."""
    one = replace(plan, workers=1, cores=Cores(plan.cores.server[:1], ()))
    with _alone(subject, one, folder) as (trees, _):
        _commanded(trees, f"run {plan.warm_up}")
        [found] = _commanded(trees, f"steps {plan.seconds}")
    return dict(found)


@contextmanager
def _alone(subject: Subject, plan: Plan, folder: Path) -> Iterator[tuple[list[Tree], float]]:
    """The processes, each of which has answered a picture, and the seconds until all had."""
    environment = archive_environment(subject)
    command = [sys.executable, "-m", "benchmarks.inprocess", *plan.pictures]
    trees: list[Tree] = []
    start = time.perf_counter()
    with (folder / "alone.log").open("w") as log:
        try:
            with pinned(plan.cores.server):
                trees += (launch(command, environment, folder, log, talks=True) for _ in range(plan.workers))
            for tree in trees:
                assert tree.root.stdout
                if tree.root.stdout.readline().strip() != "ready":
                    raise NotRunning(_tail(folder / "alone.log"))
            yield trees, time.perf_counter() - start
        finally:
            for tree in trees:
                tree.stop()


def _commanded(trees: list[Tree], line: str) -> list[Any]:
    """What each process answers to a command that all are given at once."""
    for tree in trees:
        assert tree.root.stdin
        print(line, file=tree.root.stdin, flush=True)
    return [json.loads(tree.root.stdout.readline()) for tree in trees if tree.root.stdout]


def served(start: Launch, subject: Subject, plan: Plan, place: Place, same_predictor: bool) -> Round:
    """Raises NotRunning when it does not come to answer right."""
    log = place.folder / "server.log"
    began = time.perf_counter()
    with log.open("w") as output:
        with pinned(plan.cores.server):
            tree = launch(start.command, start.environment, place.folder, output)
        try:
            _wait(tree, start, plan, place, log)
            started = time.perf_counter() - began
            start.settle()
            return {
                **_load(tree, start, plan, place),
                "start_s": started,
                **_proof(start, subject, place, same_predictor),
            }
        finally:
            tree.stop()
            for folder in start.leaves:
                shutil.rmtree(folder, ignore_errors=True)


def _wait(tree: Tree, start: Launch, plan: Plan, place: Place, log: Path) -> None:
    """Until the first right answer."""
    body, deadline, last = Path(plan.pictures[0]).read_bytes(), time.monotonic() + START_SECONDS, ""
    while time.monotonic() < deadline:
        if tree.root.poll() is not None:
            raise NotRunning(f"It ended by itself. {_tail(log)}")
        with suppress(requests.RequestException):
            answer = _ask(start, place, body, {})
            if answer.status_code == 200 and answer.content.startswith(plan.right[0].encode()):
                return
            last = f"{answer.status_code}: {answer.text[:200]}"
        time.sleep(LOOK_SECONDS)
    raise NotRunning(f"No right answer within {START_SECONDS} s. {last or _tail(log)}")


def _ask(start: Launch, place: Place, body: bytes, headers: Mapping[str, str]) -> requests.Response:
    with pooled_session(1, trust_env=False) as session:
        url = f"http://127.0.0.1:{place.port}{start.path}"
        return session.post(url, body, headers={**start.headers(), **headers}, timeout=ANSWER_SECONDS)


def _load(tree: Tree, start: Launch, plan: Plan, place: Place) -> Round:
    """A closed loop, by one process on each core that is the generator's alone; they share the connections."""
    bodies = [post("127.0.0.1", start.path, start.headers(), Path(one).read_bytes()) for one in plan.pictures]
    asked = Requests(bodies, beginnings=[right.encode() for right in plan.right])
    count = min(len(plan.cores.generator), plan.connections) if plan.cores.apart else 1
    with ExitStack() as stack:
        with pinned(plan.cores.generator):
            generators = stack.enter_context(Generators(("127.0.0.1", place.port), asked, count))
        generators.run(Run(plan.warm_up, ANSWER_SECONDS, plan.connections), _goes_on)
        before = tree.cpu()
        observed = generators.run(Run(plan.seconds, ANSWER_SECONDS, plan.connections), _goes_on)
        used = spent(before, tree.cpu())
    answered = max(1, sum(len(one.answered) for one in observed))
    in_time = [end - begin for one in observed for begin, end in one.answered if end <= plan.seconds]
    return {
        **_timing(in_time, plan.seconds),
        "cpu_s": sum(used.values()) / answered,
        "programs": {name: seconds / answered for name, seconds in used.items()},
        "generator_cpu_s": sum(one.cpu for one in observed) / answered,
        "memory_bytes": tree.memory(),
        "errors": dict(Counter(reason for one in observed for _, reason in one.failed)),
    }


def _goes_on(*_: float) -> bool:
    return False


def _timing(latencies: list[float], seconds: float) -> dict[str, float | None]:
    if not latencies:
        return {"images_per_s": 0.0, "p50_s": None, "p99_s": None}
    p50, p99 = np.percentile(latencies, [50, 99])
    return {"images_per_s": len(latencies) / seconds, "p50_s": float(p50), "p99_s": float(p99)}


def _proof(start: Launch, subject: Subject, place: Place, same_predictor: bool) -> Round:
    """The goldens through this very server, asked for lossless logits, and what it says that it runs."""
    found: list[NDArray[np.float32]] = []
    for name, body in zip(subject.goldens.names, subject.goldens.requests, strict=True):
        answer = _ask(start, place, body, {"Accept": NPY})
        if answer.status_code != 200:
            return {"verdict": _red(f"The golden {name} was answered {answer.status_code}.")}
        found.append(np.load(BytesIO(answer.content)))
    attested = answer.headers.get(ATTESTED["artifact"])
    if same_predictor and attested != subject.archive.files[subject.archive.artifact].sha256:
        return {"verdict": _red(f"It attests another artifact: {attested}.")}
    return {"verdict": _verdict(np.concatenate(found), subject)}


def _verdict(logits: NDArray[np.float32], subject: Subject) -> dict[str, Any]:
    slack = parity.decoding(subject.archive.model, CPU if subject.archive.decoder == CPU else NVJPEG)["atol"]
    verdict = parity.compare(logits, subject.goldens, subject.limit, slack)
    kept = {name: value for name, value in asdict(verdict).items() if name != "flips"}
    return {**kept, "flips": len(verdict.flips)}


def _red(sentence: str) -> dict[str, Any]:
    return {"ok": False, "max_abs": None, "error_ratio": None, "flips": 0, "sentence": sentence}


def _tail(log: Path) -> str:
    words = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return " | ".join(words[-3:])[-400:]
