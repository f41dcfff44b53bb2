"""The hops of an archive that need no server, each compared with eager."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export import parity
from export.archive import run_inprocess
from export.goldens import Goldens


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
    expected = {"model", "pixels", "refused", *(f"handler_{size}" for size in sizes)}
    expected |= {"attested_precision", "attested_device", "decoders"}
    if not sizes or expected - found.keys():
        raise RuntimeError(f"{archive.name} was exported by another version of this project. Export it again.")
    model, decoders = str(found["model"]), [str(name) for name in found["decoders"]]
    if len(decoders) != len(goldens):
        raise RuntimeError(f"{archive.name} holds other goldens: {len(decoders)}, not {len(goldens)}. Export it again.")
    limit = parity.tolerance(model, runtime, str(found["attested_precision"]), str(found["attested_device"]))

    def at_all_sizes(hop: str, slack: NDArray[np.float64] | float = 0.0) -> Hop:
        verdicts = [_compared(found[f"{hop}_{size}"], goldens, limit, slack, size) for size in sizes]
        return Hop(hop, parity.worst_of(verdicts))

    decode = parity.compare_pixels(found["pixels"], goldens, parity.steps(model, goldens, decoders))
    if failed := failure(found["pixels"]):
        decode = replace(decode, sentence=failed)
    handler = at_all_sizes("handler", parity.slack(model, decoders))
    if refused := str(found["refused"]):
        handler = Hop("handler", replace(handler.comparison, ok=False, sentence=refused))
    return [Hop("decode", decode), at_all_sizes("runtime"), handler]


def failure(answered: NDArray[Any]) -> str:
    """Why a step could not be computed, which stands in the place of its result; "" where it could be."""
    return str(answered) if answered.dtype.kind == "U" else ""


def _compared(
    answered: NDArray[Any], goldens: Goldens, limit: parity.Tolerance, slack: NDArray[np.float64] | float, size: int
) -> parity.Comparison:
    verdict = parity.compare(answered, goldens, limit, slack)
    failed = failure(answered)
    return replace(verdict, sentence=f"In batches of {size} it fails: {failed}") if failed else verdict
