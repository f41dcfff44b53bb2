"""The hops that need no host: decode, runtime and handler, by the code of an archive, each compared with eager.

An archive runs itself: `cd ARCHIVE && python -m inference.selfcheck answers OUT.npz` writes what the goldens become at
each hop, `timings` how long it takes. `inprocess_hops` has that done, and compares.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import parity
from inference.base import BadInput, OutOfMemory
from inference.bundle import Bundle, read_goldens
from inference.contract import Contract
from inference.goldens import Goldens
from inference.inputs import CPU, Decoder
from inference.messages import NO_MEMORY, Request
from inference.predictor import Predictor, decode_all
from inference.protocol import NPY
from inference.runtime import CannotRun, as_array, runtime_module
from inference.store.archive import run_inprocess

HERE = Path()
ROUNDS = 5
SECONDS = 1.0  # for each kind of timing, however slow the model is


@dataclass(frozen=True)
class Hop:
    """One step from the request to the answer, compared with eager."""

    hop: str
    comparison: parity.Comparison


def inprocess_hops(archive: Path, goldens: Goldens, runtime: str, threads: int) -> list[Hop]:
    """The hops that need no server: decode, runtime, handler, each at every batch size of the contract.

    `handler` is red too where a worker would refuse to start. Raises RuntimeError when the archive does not run, holds
    another number of goldens, or its code is too old to say all this.
    """
    found = run_inprocess("answers", archive, threads)
    sizes = sorted(int(name.removeprefix("runtime_")) for name in found if name.startswith("runtime_"))
    expected = {"model", "inputs", "refused", "decoders", "attested_precision", "attested_device"}
    if not sizes or (expected | {f"handler_{size}" for size in sizes}) - found.keys():
        raise RuntimeError(f"{archive.name} was exported by another version of this project. Export it again.")
    model, decoders = str(found["model"]), [str(name) for name in found["decoders"]]
    if len(decoders) != len(goldens):
        raise RuntimeError(f"{archive.name} holds other goldens: {len(decoders)}, not {len(goldens)}. Export it again.")
    limit = parity.tolerance(model, runtime, str(found["attested_precision"]), str(found["attested_device"]))

    def at_all_sizes(hop: str, slack: parity.Slack = 0.0) -> Hop:
        verdicts = []
        for size in sizes:
            answered = found[f"{hop}_{size}"]
            verdict = parity.compare(answered, goldens, limit, slack)
            failed = f"In batches of {size} it fails: {answered}" if _failed(answered) else verdict.sentence
            verdicts.append(replace(verdict, sentence=failed))
        return Hop(hop, parity.worst_of(verdicts))

    decode = parity.compare_inputs(found["inputs"], goldens, decoders)
    if _failed(found["inputs"]):
        decode = replace(decode, sentence=str(found["inputs"]))
    handler = at_all_sizes("handler", parity.slack(model, decoders))
    if refused := str(found["refused"]):
        handler = Hop("handler", replace(handler.comparison, ok=False, sentence=refused))
    return [Hop("decode", decode), at_all_sizes("runtime"), handler]


def _failed(answered: NDArray[Any]) -> bool:
    """Whether a step could not be computed: why not stands in the place of its result."""
    return answered.dtype.kind == "U"


def answers() -> dict[str, NDArray[Any]]:
    """The inputs of the goldens, and their outputs by the runtime and by the predictor at each batch size.

    In the place of what could not be computed stands why, as text. `refused` is why a worker would not start with this
    archive, and empty where it would.
    """
    goldens, contract, bundle = read_goldens(HERE), Contract.read(HERE / "contract.json"), Bundle.read(HERE)
    device, threads = _place(bundle)
    if device != "cpu":
        from inference.torch_graph import prepare  # not at the top: a runtime may need no torch

        prepare(device, threads)
    decoder = contract.input.decoder(bundle.decoder, device)
    decoded = _tried(partial(_decoded, decoder, contract, goldens))
    inputs, decoders = decoded if isinstance(decoded, tuple) else (decoded, [CPU] * len(goldens))
    found = {"model": contract.model, "inputs": inputs, "decoders": decoders}
    sizes = parity.batch_sizes(contract.max_batch)
    try:
        predictor = bundle.load(HERE, device, threads)
    except CannotRun as error:
        attested = {"device": device, "precision": runtime_module(bundle.runtime).PRECISION}
        reason = f"it can't be loaded: {error}"
        found |= {f"{hop}_{size}": reason for hop in ("runtime", "handler") for size in sizes} | {"refused": reason}
    else:
        attested = dict(predictor.attestation)
        for size in sizes:
            found[f"runtime_{size}"] = _tried(partial(parity.run_goldens, predictor.loaded, goldens, size))
            found[f"handler_{size}"] = _tried(partial(_by_predictor, predictor, goldens, size))
        del predictor  # a GPU may have no room for two
        found["refused"] = _tried(lambda: bundle.load(HERE, device, threads).check(goldens)) or ""
    found |= {f"attested_{name}": value for name, value in attested.items()}
    return {name: np.array(value) for name, value in found.items()}


def _tried(compute: Callable[[], Any]) -> Any:
    """What was computed, or why it could not be: an archive's code fails in any way, and that is what is looked for."""
    try:
        return compute()
    except (MemoryError, OutOfMemory):
        raise  # no fault of the archive's
    except Exception as error:  # noqa: BLE001 - it is reported, as what is wrong with this step
        return str(error) or type(error).__name__


def _decoded(decoder: Decoder | None, contract: Contract, goldens: Goldens) -> tuple[NDArray[Any], list[str]]:
    """[N, *input.shape] and what decoded each, in full batches. Raises ValueError for a golden that is refused."""
    bodies, found = [(body, "") for body in goldens.requests], []
    for rows in parity.batches(contract.max_batch, len(goldens)):
        for name, one in zip(goldens.names[rows], decode_all(contract.input, decoder, bodies[rows]), strict=True):
            if isinstance(one, BadInput):
                raise ValueError(f"{name} is refused: {one}")
            found.append(one)
    return np.concatenate([as_array(one.rows) for one in found]), [one.decoder for one in found]


def _place(bundle: Bundle) -> tuple[str, int]:
    """The device that it runs on here, and on how many threads."""
    return "cpu" if bundle.device == "cpu" else f"{bundle.device}:0", int(os.environ["OMP_NUM_THREADS"])


def _by_predictor(predictor: Predictor, goldens: Goldens, size: int) -> NDArray[np.float32]:
    """All goldens as requests, in batches of `size` → outputs [N, *output.shape]."""
    bodies: list[bytes] = []
    for rows in parity.batches(size, len(goldens)):
        requests = [Request(body, {"accept": NPY}) for body in goldens.requests[rows]]
        answered = predictor.answer(requests)
        if len(answered) != len(requests):
            raise ValueError(f"{len(requests)} requests got {len(answered)} answers.")
        for name, answer in zip(goldens.names[rows], answered, strict=True):
            if answer.status == NO_MEMORY.status:
                raise OutOfMemory(answer.body.decode())
            if answer.status != 200:
                raise ValueError(f"{name} is answered by {answer.body.decode()}")
            bodies.append(answer.body)
    return np.concatenate([np.load(BytesIO(body)) for body in bodies])


def timings() -> dict[str, NDArray[Any]]:
    """Seconds: `load`, `cold` (the first answer), `one` and `batch` (each answer at batch 1, at `batch_size`)."""
    goldens, bundle = read_goldens(HERE), Bundle.read(HERE)
    start = time.perf_counter()
    predictor = bundle.load(HERE, *_place(bundle))
    load = time.perf_counter() - start

    def seconds(requests: Sequence[Request]) -> float:
        start = time.perf_counter()
        predictor.answer(requests)
        return time.perf_counter() - start

    requests = [Request(body) for body in goldens.requests]
    largest = [requests[index % len(requests)] for index in range(predictor.contract.max_batch)]
    cold = seconds(requests[:1])
    for _ in _rounds(ROUNDS):  # warm-up
        predictor.answer(largest)
        predictor.answer(requests[:1])
    one = [seconds([requests[turn % len(requests)]]) for turn in _rounds(ROUNDS * len(requests))]
    batch = [seconds(largest) for _ in _rounds(4 * ROUNDS)]
    figures = {"load": load, "cold": cold, "one": one, "batch": batch, "batch_size": len(largest)}
    return {name: np.array(value) for name, value in figures.items()}


def _rounds(count: int) -> Iterator[int]:
    """At most `count`, none after `SECONDS`, and always one."""
    deadline = time.perf_counter() + SECONDS
    for turn in range(count):
        if turn and time.perf_counter() > deadline:
            return
        yield turn


if __name__ == "__main__":
    command, out = sys.argv[1:]
    np.savez(out, allow_pickle=False, **{"answers": answers, "timings": timings}[command]())
