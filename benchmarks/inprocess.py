"""An archive's predictor in one process with no server: what every server is compared with.

`python -m benchmarks.inprocess PICTURE…`, with the archive first on the import path. It prints `ready` when the first
picture is answered, and then does what each line of standard input says: `answers`, `run SECONDS`, `steps SECONDS` or
`goldens FILE`.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.adapted import answer, load
from inference.goldens import Goldens
from inference.inputs import Decoded
from inference.messages import Query, Request
from inference.predictor import Predictor
from inference.protocol import NPY


def run(predictor: Predictor, bodies: list[bytes], seconds: float) -> dict[str, Any]:
    """Batch after batch, as large as a worker takes: seconds for each picture, and the processor time of all."""
    latencies: list[float] = []
    size, pictures = int(os.environ["BENCH_BATCH"]), cycle(bodies)
    cpu, start = time.process_time(), time.perf_counter()
    while True:
        before = time.perf_counter()
        predictor.answer([Request(next(pictures)) for _ in range(size)])
        after = time.perf_counter()
        if after > start + seconds:
            break
        latencies += [after - before] * size
    return {"latencies": latencies, "cpu_s": time.process_time() - cpu, "answered": len(latencies) + size}


QUERY = Query(b"", content_type="", single=True, raw=False, options=5)
STEPS = ("JPEG decode", "resize and crop", "network", "top-5 as JSON")


def steps(predictor: Predictor, bodies: list[bytes], seconds: float) -> dict[str, float]:
    """Median seconds for one picture, step by step and as a whole. The rest is checks, copies and headers."""
    from inference.inputs.image.decode import fit, read_image

    times: dict[str, list[float]] = {step: [] for step in (*STEPS, "whole")}

    def timed(step: str, call: Callable[..., Any], *given: Any) -> Any:
        start = time.perf_counter()
        found = call(*given)
        times[step].append(time.perf_counter() - start)
        return found

    end, spec = time.perf_counter() + seconds, predictor.contract.input
    for body in cycle(bodies):
        image = timed("JPEG decode", read_image, body, spec)
        timed("resize and crop", fit, image, spec)
        [decoded] = predictor.decode([replace(QUERY, body=body)])
        assert isinstance(decoded, Decoded)
        [rows] = timed("network", predictor.predict, [decoded.rows])
        timed("top-5 as JSON", predictor.encode, [rows], [QUERY])
        timed("whole", answer, predictor, body, {})
        if time.perf_counter() > end:
            break
    return {step: float(np.median(values)) for step, values in times.items()}


def logits(predictor: Predictor) -> np.ndarray:
    """float32 [N, C] for the archive's goldens, asked one at a time."""
    goldens = Goldens.read(Path(os.environ["BENCH_ARCHIVE"], "goldens.npz"))
    answers = [answer(predictor, body, {"accept": NPY}) for body in goldens.requests]
    return np.concatenate([np.load(BytesIO(one.body)) for one in answers])


def obey(predictor: Predictor, bodies: list[bytes], line: str) -> Any:
    command, _, argument = line.strip().partition(" ")
    if command == "answers":
        return [answer(predictor, body, {}).body.decode() for body in bodies]
    if command == "run":
        return run(predictor, bodies, float(argument))
    if command == "steps":
        return steps(predictor, bodies, float(argument))
    np.save(argument, logits(predictor))
    return argument


def main() -> None:
    bodies = [Path(picture).read_bytes() for picture in sys.argv[1:]]
    predictor = load()
    answer(predictor, bodies[0], {})
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(obey(predictor, bodies, line)), flush=True)


if __name__ == "__main__":
    main()
