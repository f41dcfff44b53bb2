"""Comparing what something answered with what the eager model answers. Needs no torch."""

import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.base import Pixels
from inference.goldens import Goldens
from inference.runtime import Logits, device_kind

TABLE = Path(__file__).with_name("tolerances.toml")


@dataclass(frozen=True)
class Tolerance:
    """How far from eager is the same: |a - b| ≤ atol + rtol · |b|.

    `worst` is the largest |a - b| that was seen, and `reason` says where it comes from. `accuracy_drop` is how much
    smaller the share of held-out inputs decided right may be than eager's; None where the precision is eager's own.
    """

    atol: float
    rtol: float
    worst: float
    reason: str
    accuracy_drop: float | None = None


@dataclass(frozen=True)
class Decoding:
    """How far a decoder's pixels may be from the CPU's, in steps of 255, and how far that may move logits.

    `enlarged` is for pictures smaller than the input: they are scaled up, and what is wrong with their colours is too.
    """

    pixels: int
    enlarged: int
    atol: float


def decoding(model: str, decoder: str) -> Decoding:
    """The row of `tolerances.toml`. Raises ValueError when there is none."""
    if decoder == "cpu":
        return Decoding(0, 0, 0)
    for row in tomllib.loads(TABLE.read_text())["decoding"]:
        if (row["model"], row["decoder"]) == (model, decoder):
            return Decoding(row["pixels"], row["enlarged"], row["atol"])
    raise ValueError(
        f"{TABLE.name} has no row for decoding by {decoder} that is about {model}. Measure one and add it."
    )


def steps(model: str, goldens: Goldens, decoders: Sequence[str]) -> list[int]:
    """How many steps of 255 the pixels of each golden may be off, for what decoded it."""
    found, edge = [decoding(model, decoder) for decoder in decoders], min(goldens.pixels.shape[1:3])
    pairs = zip(found, goldens.requests, strict=True)  # what may not be off at all may be no picture
    small = [bool(row.enlarged) and min(Image.open(BytesIO(body)).size) < edge for row, body in pairs]
    return [row.enlarged if enlarged else row.pixels for row, enlarged in zip(found, small, strict=True)]


def slack(model: str, decoders: Sequence[str]) -> NDArray[np.float64]:
    """How much further from eager than a runtime's own limit each answer may be, for what decoded its input."""
    atol = {decoder: decoding(model, decoder).atol for decoder in {*decoders}}
    return np.array([atol[decoder] for decoder in decoders])


def tolerance(model: str, runtime: str, precision: str, device: str) -> Tolerance:
    """The row of `tolerances.toml` as a value. Raises ValueError when there is none."""
    row = row_of(model, runtime, precision, device)
    return Tolerance(row["atol"], row["rtol"], row["worst"], row["reason"], row.get("accuracy_drop"))


def row_of(model: str, runtime: str, precision: str, device: str) -> dict[str, Any]:
    """The row of `tolerances.toml`, the model's own before the one for all.

    Raises ValueError when there is none: an unknown difference is not a small one.
    """
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
    rows = tomllib.loads(TABLE.read_text())["tolerance"]
    found = [row for row in rows if (row["runtime"], row["device"]) == (runtime, kind)]
    return [row for name in (model, None) for row in found if row.get("model") == name]


@dataclass(frozen=True)
class Flip:
    """One input that is decided otherwise. `margin` is eager's first logit minus its second: how sure it was."""

    golden: str
    eager: int
    answered: int
    margin: float


@dataclass(frozen=True)
class Comparison:
    """The verdict over `compared` inputs.

    `max_abs` is the largest |a - b|, None when the two can't be subtracted. `error_ratio` is the largest error against
    float64 over eager's own: about 1 is as good as eager, 100 is worse and not just different. `sentence` says what is
    wrong; it is empty when nothing is.
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
def compare(
    answered: Logits, goldens: Goldens, limit: Tolerance, slack: NDArray[np.float64] | float = 0.0
) -> Comparison:
    """float32 logits [N, C] against eager's logits of `goldens` (N of them, in order).

    `slack` [N] is added to each one's limit.
    """
    more = np.broadcast_to(np.asarray(slack, np.float64), len(goldens))  # [N]
    atol = float(limit.atol + more.max(initial=0))
    wrong = _incomparable(answered, goldens.logits)
    if wrong:
        return Comparison(False, len(goldens), None, None, (), atol, limit.rtol, wrong)
    distance = np.abs(answered.astype(np.float64) - goldens.logits)  # [N, C]
    close = distance <= limit.atol + more[:, None] + limit.rtol * np.abs(goldens.logits)  # False for NaN
    return Comparison(
        ok=bool(close.all()),
        compared=len(goldens),
        max_abs=_finite(distance.max()),
        error_ratio=_error_ratio(answered, goldens),
        flips=tuple(_flips(answered, goldens)),
        atol=atol,
        rtol=limit.rtol,
        sentence=_worst_place(answered, goldens, distance, close),
    )


def compare_pixels(decoded: NDArray[Any], goldens: Goldens, most: Sequence[int] | int = 0) -> Comparison:
    """Decoded inputs against those that the goldens were made from, each of which may be `most` steps apart.

    The same code must give the same bits.
    """
    apart = np.broadcast_to(most, len(goldens))  # [N]
    limit = float(apart.max(initial=0))
    wrong = _incomparable(decoded, goldens.pixels)
    if wrong:
        return Comparison(False, len(goldens), None, None, (), limit, 0, wrong)
    distance = np.abs(decoded.astype(np.int16) - goldens.pixels)  # [N, H, W, C]
    different = [
        name for name, image, few in zip(goldens.names, distance, apart, strict=True) if image.max(initial=0) > few
    ]
    sentence = f"{len(different)} inputs decode to other pixels, first {different[0]}." if different else ""
    return Comparison(not different, len(goldens), float(distance.max()), None, (), limit, 0, sentence)


def batches(size: int, total: int) -> Iterator[slice]:
    """`total` rows in batches of `size`, the last one maybe smaller."""
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def batch_sizes(max_batch: int) -> list[int]:
    """The sizes that an artifact is compared at: 1, 2, 3, 7 and the maximum."""
    return sorted({min(size, max_batch) for size in (1, 2, 3, 7, max_batch)})


def run_goldens(run: Callable[[Pixels], Logits], goldens: Goldens, size: int) -> Logits:
    """All goldens through a runtime, in batches of `size` → logits [N, C]."""
    return np.concatenate([run(goldens.pixels[rows]) for rows in batches(size, len(goldens))])


def worst_of(comparisons: Sequence[Comparison]) -> Comparison:
    """Several comparisons as one: red if one is red, with the largest figures and all flips."""
    chosen = next((one for one in comparisons if not one.ok), comparisons[0])
    return Comparison(
        ok=chosen.ok,
        compared=sum(one.compared for one in comparisons),
        max_abs=_largest(one.max_abs for one in comparisons),
        error_ratio=_largest(one.error_ratio for one in comparisons),
        flips=tuple(dict.fromkeys(flip for one in comparisons for flip in one.flips)),
        atol=chosen.atol,
        rtol=chosen.rtol,
        sentence=chosen.sentence,
    )


def _largest(values: Iterator[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _incomparable(answered: NDArray[Any], expected: NDArray[Any]) -> str:
    if answered.shape == expected.shape and answered.dtype == expected.dtype:
        return ""
    return f"It is {answered.dtype} {list(answered.shape)}; eager gives {expected.dtype} {list(expected.shape)}."


def _worst_place(answered: Logits, goldens: Goldens, distance: NDArray[np.float64], close: NDArray[np.bool_]) -> str:
    if close.all():
        return ""
    excess = np.where(close, -1, np.where(np.isnan(distance), np.inf, distance))
    row, column = np.unravel_index(excess.argmax(), excess.shape)
    there, here = answered[row, column], goldens.logits[row, column]
    wrong = int((~close).any(axis=1).sum())
    return (
        f"{wrong} of {len(goldens)} differ, worst {goldens.names[row]}, logit {column}: {there:.7g}, eager {here:.7g}."
    )


def _error_ratio(answered: Logits, goldens: Goldens) -> float | None:
    eager = np.abs(goldens.logits - goldens.oracle).max()
    return _finite(np.abs(answered - goldens.oracle).max() / eager) if eager else None


def _finite(value: np.floating[Any]) -> float | None:
    return float(value) if np.isfinite(value) else None


def _flips(answered: Logits, goldens: Goldens) -> Iterator[Flip]:
    second, first = np.sort(goldens.logits, axis=1)[:, -2:].T  # each [N]
    ours, theirs = answered.argmax(axis=1), goldens.logits.argmax(axis=1)  # each [N]
    for row in np.flatnonzero(ours != theirs):
        yield Flip(goldens.names[row], int(theirs[row]), int(ours[row]), float(first[row] - second[row]))
