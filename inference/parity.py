"""Comparing what something answered with what the eager model answers. Needs no torch."""

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.goldens import Goldens
from inference.inputs import CPU, Rows
from inference.outputs import Flip, Outputs
from inference.runtime import device_kind

TABLE = Path(__file__).with_name("tolerances.toml")

Slack = NDArray[np.float64] | float


@dataclass(frozen=True)
class Tolerance:
    """How far from eager is the same: |a - b| ≤ atol + rtol · |b|. `worst` is the largest |a - b| seen, for `reason`.

    `accuracy_drop` is how much smaller the share of held-out inputs decided right may be than eager's; None where the
    precision is eager's own.
    """

    atol: float
    rtol: float
    worst: float
    reason: str
    accuracy_drop: float | None = None


def decoding(model: str, decoder: str) -> dict[str, Any]:
    """The row for a decoder: how far outputs may be from the CPU's (`atol`), and inputs. ValueError for no row."""
    if decoder == CPU:
        return {"atol": 0.0}
    rows: list[dict[str, Any]] = tomllib.loads(TABLE.read_text())["decoding"]
    for row in rows:
        if (row["model"], row["decoder"]) == (model, decoder):
            return row
    raise ValueError(
        f"{TABLE.name} has no row for decoding by {decoder} that is about {model}. Measure one and add it."
    )


def slack(model: str, decoders: Sequence[str]) -> NDArray[np.float64]:
    """How much further from eager than a runtime's own limit each answer may be, for what decoded its input."""
    atol = {decoder: float(decoding(model, decoder)["atol"]) for decoder in {*decoders}}
    return np.array([atol[decoder] for decoder in decoders])


def tolerance(model: str, runtime: str, precision: str, device: str) -> Tolerance:
    """The row of `tolerances.toml` as a value. Raises ValueError when there is none."""
    row = row_of(model, runtime, precision, device)
    return Tolerance(row["atol"], row["rtol"], row["worst"], row["reason"], row.get("accuracy_drop"))


def row_of(model: str, runtime: str, precision: str, device: str) -> dict[str, Any]:
    """The row of `tolerances.toml`, the model's own before the one for all. Raises ValueError when there is none."""
    kind = device_kind(device)
    for row in _rows(model, runtime, kind):
        if row["precision"] == precision:
            return row
    raise ValueError(
        f"{TABLE.name} has no row for {runtime} in {precision} on {kind} that is about {model}. Measure one and add it."
    )


def unmeasured(model: str, runtime: str, device: str) -> str | None:
    """Why nothing can be verified for that runtime on that kind of device; None when there is a row for it."""
    if _rows(model, runtime, device):
        return None
    return (
        f"{TABLE.name} has no row for {runtime} on {device} that is about {model}, so that it can't be verified. "
        "Measure one and add it."
    )


def _rows(model: str, runtime: str, kind: str) -> list[dict[str, Any]]:
    """Those about the model first; a row that names none is about all."""
    table = tomllib.loads(TABLE.read_text())["tolerance"]
    found = [row for row in table if (row["runtime"], row["device"]) == (runtime, kind)]
    return [row for name in (model, None) for row in found if row.get("model") == name]


@dataclass(frozen=True)
class Comparison:
    """The verdict over `compared` inputs.

    `max_abs` is the largest |a - b|, None when the two can't be subtracted. `error_ratio` is the largest error against
    float64 over eager's own: about 1 is as good as eager, 100 is worse and not just different. `sentence` says why.
    """

    ok: bool
    compared: int
    max_abs: float | None
    error_ratio: float | None
    flips: tuple[Flip, ...]
    atol: float
    rtol: float
    sentence: str = ""


@np.errstate(invalid="ignore", over="ignore")  # what is not finite is red, and no warning
def compare(answered: Outputs, goldens: Goldens, limit: Tolerance, slack: Slack = 0.0) -> Comparison:
    """float32 outputs [N, *output.shape] against eager's of N goldens, in order. `slack` [N] is added to the limit."""
    more = np.broadcast_to(np.asarray(slack, np.float64), len(goldens))  # [N]
    atol, output = float(limit.atol + more.max(initial=0)), goldens.contract.output
    if wrong := _incomparable(answered, goldens.outputs):
        return Comparison(False, len(goldens), None, None, (), atol, limit.rtol, wrong)
    distance = np.abs(answered.astype(np.float64) - goldens.outputs)  # [N, *output.shape]
    allowed = more.reshape(-1, *[1] * len(output.shape)) + limit.atol + limit.rtol * np.abs(goldens.outputs)
    close = distance <= allowed  # False for NaN
    eager_error = np.abs(goldens.outputs - goldens.oracle).max()
    return Comparison(
        ok=bool(close.all()),
        compared=len(goldens),
        max_abs=_finite(distance.max()),
        error_ratio=_finite(np.abs(answered - goldens.oracle).max() / eager_error) if eager_error else None,
        flips=tuple(output.flips(goldens.names, goldens.outputs, answered)),
        atol=atol,
        rtol=limit.rtol,
        sentence="" if close.all() else _worst_place(answered, goldens, distance, close),
    )


def compare_inputs(decoded: Rows, goldens: Goldens, decoders: Sequence[str]) -> Comparison:
    """Decoded inputs against those of the goldens, each by what decoded it; the same code must give the same bits."""
    spec, model = goldens.contract.input, goldens.contract.model
    rows = {decoder: decoding(model, decoder) for decoder in {*decoders}}
    allowed = spec.allowed_steps(goldens.requests, [rows[decoder] for decoder in decoders])  # [N]
    limit = max(allowed, default=0.0)
    if wrong := _incomparable(decoded, goldens.inputs):
        return Comparison(False, len(goldens), None, None, (), limit, 0, wrong)
    pairs = zip(decoded, goldens.inputs, strict=True)  # compared row by row, since all together may be large
    apart = [float(np.abs(here.astype(np.float64) - there).max(initial=0)) for here, there in pairs]  # [N]
    different = [name for name, far, few in zip(goldens.names, apart, allowed, strict=True) if not far <= few]
    sentence = f"{len(different)} inputs decode to other {spec.elements}, first {different[0]}." if different else ""
    return Comparison(not different, len(goldens), _finite(np.max(apart)), None, (), limit, 0, sentence)


def batches(size: int, total: int) -> Iterator[slice]:
    """`total` rows in batches of `size`, the last one maybe smaller."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def batch_sizes(max_batch: int) -> list[int]:
    """The sizes that an artifact is compared at: 1, 2, 3, 7 and the maximum."""
    return sorted({min(size, max_batch) for size in (1, 2, 3, 7, max_batch)})


def run_goldens(run: Callable[[Rows], Outputs], goldens: Goldens, size: int) -> Outputs:
    """All goldens through a runtime, in batches of `size` → outputs [N, *output.shape]."""
    return np.concatenate([run(goldens.inputs[rows]) for rows in batches(size, len(goldens))])


def worst_of(comparisons: Sequence[Comparison]) -> Comparison:
    """Several comparisons as one: red if one is red, with the largest figures and all flips."""
    return replace(
        next((one for one in comparisons if not one.ok), comparisons[0]),
        compared=sum(one.compared for one in comparisons),
        max_abs=max((one.max_abs for one in comparisons if one.max_abs is not None), default=None),
        error_ratio=max((one.error_ratio for one in comparisons if one.error_ratio is not None), default=None),
        flips=tuple(dict.fromkeys(flip for one in comparisons for flip in one.flips)),
    )


def _incomparable(answered: NDArray[Any], expected: NDArray[Any]) -> str:
    if answered.shape == expected.shape and answered.dtype == expected.dtype:
        return ""
    return f"It is {answered.dtype} {list(answered.shape)}; eager gives {expected.dtype} {list(expected.shape)}."


def _worst_place(answered: Outputs, goldens: Goldens, distance: NDArray[np.float64], close: NDArray[np.bool_]) -> str:
    excess = np.where(close, -1, np.where(np.isnan(distance), np.inf, distance))
    row, *place = (int(index) for index in np.unravel_index(excess.argmax(), excess.shape))
    there, here = answered[row, *place], goldens.outputs[row, *place]
    wrong = int((~close).reshape(len(close), -1).any(axis=1).sum())
    where = f"{goldens.contract.output.element} {', '.join(map(str, place))}"
    return f"{wrong} of {len(goldens)} differ, worst {goldens.names[row]}, {where}: {there:.7g}, eager {here:.7g}."


def _finite(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None
