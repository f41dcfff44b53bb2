"""An artifact's layers beside eager's: how far each is off, and how far it may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import ArrayLike, NDArray

from export.diagnose.steps import Step, same_steps
from export.diagnose.walks import Walk
from inference.goldens import Goldens
from inference.parity import Tolerance, batches

BATCH = 4  # goldens at a time: all results of a large network are held at once, three times
TINY = float(np.finfo(np.float32).tiny)  # the least error that eager is taken to have: a layer may be all zeros


@dataclass(frozen=True)
class Layer:
    """One step that eager and the artifact both have, at the place where it is furthest beyond its limit or nearest.

    `distance` is |there - here| of the artifact and eager at `place` of a golden's result; infinite for NaN.
    """

    name: str
    operation: str
    shape: tuple[int, ...]
    golden: int
    place: tuple[int, ...]
    there: float
    here: float
    distance: float
    limit: float

    @property
    def excess(self) -> float:
        """The distance in limits."""
        return float(_in_limits(self.distance, self.limit))

    @property
    def differs(self) -> bool:
        return not self.excess <= 1


@dataclass(frozen=True)
class Layers:
    """The layers that could be compared, in eager's order, of `steps` that eager has.

    `skipped` are for each the steps between it and the one before, which the artifact has not.
    """

    layers: tuple[Layer, ...]
    skipped: tuple[tuple[str, ...], ...]
    steps: int

    @property
    def first(self) -> int | None:
        """The place of the first that differs."""
        return next((place for place, layer in enumerate(self.layers) if layer.differs), None)


def compare_layers(eager: Walk, oracle: Walk, artifact: Walk, goldens: Goldens, row: Tolerance) -> Layers:
    """All goldens through three walks: eager's in float32 and in float64, and the artifact's.

    As for the logits, the limit is atol + rtol · |eager|, with the row's rtol. A layer's atol is as many of eager's own
    errors there, against float64, as the row's atol is of eager's error at the logits. So it grows from layer to layer
    as rounding does, it is the row's at the logits, and it suits numbers of any size and rows of any precision.

    Raises ValueError when there is nothing to compare.
    """
    grants = _room(goldens, row) * _errors(eager, oracle, goldens)
    steps = eager(goldens.inputs[:BATCH])
    pairs = same_steps(steps, artifact(goldens.inputs[:BATCH]))
    if not pairs:
        raise ValueError("The artifact's graph has no step in common with the network, so it can't be compared.")
    parts: list[list[Layer]] = []
    for rows in batches(BATCH, len(goldens)):
        ours, theirs = (walk(goldens.inputs[rows]) for walk in (eager, artifact))
        parts.append([_layer(ours[i], theirs[j], grants[i], row.rtol, rows.start) for i, j in pairs])
    layers = tuple(reduce(_worse, part) for part in zip(*parts, strict=True))
    return Layers(layers, _skipped(steps, [i for i, _ in pairs]), len(steps))


def _room(goldens: Goldens, row: Tolerance) -> float:
    """How many of eager's errors the row's atol is."""
    return row.atol / max(float(np.abs(goldens.outputs - goldens.oracle).max()), _ulp(goldens.oracle), TINY)


def _errors(eager: Walk, oracle: Walk, goldens: Goldens) -> NDArray[np.float64]:
    """The largest of each of eager's steps; one unit in the last place of the step's largest number at least."""
    found = []
    for rows in batches(BATCH, len(goldens)):
        steps = zip(eager(goldens.inputs[rows]), oracle(goldens.inputs[rows]), strict=True)
        found.append([max(_distance(here.value, exact.value).max(), _ulp(exact.value), TINY) for here, exact in steps])
    largest: NDArray[np.float64] = np.array(found).max(axis=0)
    return largest


def _ulp(values: NDArray[np.float64]) -> float:
    """Of float32, at the largest finite number."""
    return float(np.finfo(np.float32).eps * np.abs(values).max(initial=0, where=np.isfinite(values)))


def _layer(eager: Step, artifact: Step, atol: float, rtol: float, start: int) -> Layer:
    here, there = eager.value.astype(np.float64), artifact.value.astype(np.float64)
    distance, limit = _distance(there, here), atol + rtol * np.where(np.isfinite(here), np.abs(here), 0)
    excess = _in_limits(distance, limit)
    row, *place = (int(index) for index in np.unravel_index(excess.argmax(), excess.shape))
    return Layer(
        name=eager.layer,
        operation=eager.operation,
        shape=here.shape,
        golden=start + row,
        place=tuple(place),
        there=float(there[row, *place]),
        here=float(here[row, *place]),
        distance=float(distance[row, *place]),
        limit=float(limit[row, *place]),
    )


def _distance(there: NDArray[np.float64], here: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise. Infinity is the same as itself, and NaN as nothing."""
    with np.errstate(invalid="ignore"):
        apart = np.where(there == here, 0, np.abs(there - here))
    return np.nan_to_num(apart, nan=np.inf, posinf=np.inf)


def _in_limits(distance: ArrayLike, limit: ArrayLike) -> NDArray[np.float64]:
    """Elementwise, how many limits the distance is. No distance is none of them, and infinity more than any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(distance, 0), 0, np.where(np.isinf(distance), np.inf, np.divide(distance, limit)))


def _worse(one: Layer, other: Layer) -> Layer:
    """The same layer over the goldens of both."""
    shape = (one.shape[0] + other.shape[0], *one.shape[1:])
    return replace(max(one, other, key=lambda layer: layer.excess), shape=shape)


def _skipped(steps: Sequence[Step], found: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """For each step that was found, those that were not between it and the one found before it."""
    before = [-1, *found[:-1]]
    return tuple(
        tuple(f"{step.layer} ({step.operation})" for step in steps[last + 1 : this])
        for last, this in zip(before, found, strict=True)
    )
