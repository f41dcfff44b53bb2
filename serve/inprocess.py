"""An unpacked archive, run in this process with no server: `cd ARCHIVE && python -m serve.inprocess answers OUT.npz`.

`answers` writes what the goldens become at each hop, `timings` how long it takes; both as `.npz`.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from export import parity
from export.goldens import Goldens
from export.runtime import CannotRun, as_array, runtime_module
from serve.messages import NO_MEMORY, Request
from serve.predictor import Predictor
from serve.protocol import NPY
from training.contract import Contract
from training.decoded import BadInput, OutOfMemory
from training.decoders import CPU, Decoder, decoder_named

HERE = Path()
ROUNDS = 5
SECONDS = 1.0  # for each kind of timing, however slow the model is


def answers() -> dict[str, NDArray[Any]]:
    """The pixels of the goldens, and their logits by the runtime and by the handler at each batch size.

    In the place of what could not be computed stands why, as text. `refused` is why a worker would not start with this
    archive, and empty where it would.
    """
    goldens, contract, context = Goldens.read(HERE / "goldens.npz"), Contract.read(HERE / "contract.json"), _context(1)
    runtime, device = context.model_yaml_config["runtime"], _device(context)
    if device != "cpu":
        from export.on_torch import prepare  # not at the top: a runtime may need no torch

        prepare(device, _threads())
    decoder = decoder_named(context.model_yaml_config["decoder"], contract.input, device)
    decoded = _tried(partial(_decoded, decoder, contract, goldens))
    pixels, decoders = decoded if isinstance(decoded, tuple) else (decoded, [CPU] * len(goldens))
    found = {"model": contract.model, "pixels": pixels, "decoders": decoders}
    sizes = parity.batch_sizes(contract.max_batch)
    try:
        handler = _handler()
    except CannotRun as error:
        attested = {"device": device, "precision": runtime_module(runtime).PRECISION}
        reason = f"it can't be loaded: {error}"
        found |= {f"{hop}_{size}": reason for hop in ("runtime", "handler") for size in sizes}
        found |= {"refused": reason}
    else:
        attested = handler.predictor.attestation
        for size in sizes:
            found[f"runtime_{size}"] = _tried(partial(parity.run_goldens, handler.predictor.loaded, goldens, size))
            found[f"handler_{size}"] = _tried(partial(_by_handler, handler, goldens, size))
        del handler  # a GPU may have no room for two
        found |= {"refused": _tried(_started) or ""}
    found |= {f"attested_{name}": value for name, value in attested.items()}
    return {name: np.array(value) for name, value in found.items()}


def _tried(compute: Callable[[], Any]) -> Any:
    """What was computed, or why it could not be: an archive's code fails in any way, and that is what is looked for.

    A lack of memory is no fault of it.
    """
    try:
        return compute()
    except (MemoryError, OutOfMemory):
        raise
    except Exception as error:  # noqa: BLE001 - it is told, as what is wrong with this step
        return str(error) or type(error).__name__


def _decoded(decoder: Decoder, contract: Contract, goldens: Goldens) -> tuple[NDArray[Any], list[str]]:
    """uint8 [N, *input.shape] and what decoded each: by the decoder alone, as many at once as a worker takes at most.

    Raises ValueError for a golden that is refused.
    """
    bodies, found = [(body, "") for body in goldens.requests], []
    for rows in parity.batches(contract.max_batch, len(goldens)):
        for name, one in zip(goldens.names[rows], decoder(bodies[rows]), strict=True):
            if isinstance(one, BadInput):
                raise ValueError(f"{name} is refused: {one}")
            found.append(one)
    return np.concatenate([as_array(one.pixels) for one in found]), [one.decoder for one in found]


def _context(requests: int) -> Any:
    """What TorchServe gives to a handler, made of TorchServe's own classes."""
    from ts.context import Context, RequestProcessor

    manifest = json.loads((HERE / "MAR-INF/MANIFEST.json").read_bytes())
    config = yaml.safe_load((HERE / manifest["model"]["configFile"]).read_text())
    gpu = 0 if config["deviceType"] == "gpu" else None
    context = Context(manifest["model"]["modelName"], str(HERE), manifest, requests, gpu, "", model_yaml_config=config)
    context.request_processor = [
        RequestProcessor({"Accept": NPY, "body": {"content-type": ""}}) for _ in range(requests)
    ]
    return context


def _device(context: Any) -> str:
    return "cpu" if context.system_properties["gpu_id"] is None else "cuda:0"


def _threads() -> int:
    return int(os.environ["OMP_NUM_THREADS"])


def _handler() -> Any:
    """The archive's handler, found as TorchServe finds it. It is not asked yet whether it answers right.

    Raises CannotRun where the artifact can't be run on the device that the archive asks for.
    """
    context = _context(1)
    handler = _new_handler(context)
    handler.load(context)
    return handler


def _started() -> None:
    """As a worker starts with it."""
    context = _context(1)
    _new_handler(context).initialize(context)


def _new_handler(context: Any) -> Any:
    return importlib.import_module(context.manifest["model"]["handler"].removesuffix(".py")).Handler()


def _by_handler(handler: Any, goldens: Goldens, size: int) -> NDArray[np.float32]:
    """All goldens as TorchServe would hand them over, in batches of `size` → logits [N, C]."""
    bodies: list[bytes] = []
    for rows in parity.batches(size, len(goldens)):
        data = [{"body": bytearray(body)} for body in goldens.requests[rows]]
        context = _context(len(data))
        answered = handler.handle(data, context)
        if len(answered) != len(data):
            raise ValueError(f"{len(data)} requests got {len(answered)} answers.")
        for index, body in enumerate(answered):
            status, _ = context.get_response_status(index)
            if status == NO_MEMORY.status:
                raise OutOfMemory(body.decode())
            if status != 200:
                raise ValueError(f"{goldens.names[rows.start + index]} is answered by {body.decode()}")
        bodies += answered
    return np.concatenate([np.load(BytesIO(body)) for body in bodies])


def timings() -> dict[str, NDArray[Any]]:
    """Seconds: `load`, `cold` (the first answer), `one` and `batch` (each answer at batch 1, at `batch_size`)."""
    goldens, context = Goldens.read(HERE / "goldens.npz"), _context(1)
    runtime, threads = context.model_yaml_config["runtime"], _threads()
    device = _device(context)
    start = time.perf_counter()
    decoder = context.model_yaml_config["decoder"]
    predictor = Predictor.load(HERE, runtime, device, threads, "in-process", "", decoder)
    load = time.perf_counter() - start
    requests = [Request(body) for body in goldens.requests]
    largest = [requests[index % len(requests)] for index in range(predictor.contract.max_batch)]
    cold = _seconds(predictor, requests[:1])
    for _ in _rounds(ROUNDS):  # warm-up
        predictor.answer(largest)
        predictor.answer(requests[:1])
    one = [_seconds(predictor, [requests[turn % len(requests)]]) for turn in _rounds(ROUNDS * len(requests))]
    batch = [_seconds(predictor, largest) for _ in _rounds(4 * ROUNDS)]
    figures = {"load": load, "cold": cold, "one": one, "batch": batch, "batch_size": len(largest)}
    return {name: np.array(value) for name, value in figures.items()}


def _rounds(count: int) -> Iterator[int]:
    """At most `count`, none after `SECONDS`, and always one."""
    deadline = time.perf_counter() + SECONDS
    for turn in range(count):
        if turn and time.perf_counter() > deadline:
            return
        yield turn


def _seconds(predictor: Predictor, requests: Sequence[Request]) -> float:
    start = time.perf_counter()
    predictor.answer(requests)
    return time.perf_counter() - start


if __name__ == "__main__":
    command, out = sys.argv[1:]
    np.savez(out, allow_pickle=False, **{"answers": answers, "timings": timings}[command]())
