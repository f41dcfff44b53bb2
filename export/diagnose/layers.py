"""An artifact's layers beside eager's: which steps are the same, how far each is off, and how far it may be."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.diagnose.walks import Step, Walk
from inference.goldens import Goldens
from inference.parity import Tolerance, batches

BATCH = 4  # goldens at a time: all results of a large network are held at once, three times
TINY = float(np.finfo(np.float32).tiny)  # the least error that eager is taken to have: a layer may be all zeros

# A step with constants that an exporter may fold into the one before it. What both graphs have is the second's value.
FOLDED = {("convolution", "normalisation"), ("linear", "normalisation"), ("linear", "add")}


@dataclass(frozen=True)
class Layer:
    """One step that eager and the artifact both have, at the place where it is furthest beyond its limit or nearest."""

    name: str
    operation: str
    shape: tuple[int, ...]
    golden: int
    place: tuple[int, ...]  # in that golden's result
    there: float  # of the artifact
    here: float  # of eager
    distance: float  # |there - here|, infinite for NaN
    limit: float
    excess: float  # how many limits the distance is

    @property
    def differs(self) -> bool:
        return not self.excess <= 1


@dataclass(frozen=True)
class Layers:
    """The layers that could be compared, in eager's order."""

    layers: tuple[Layer, ...]
    skipped: tuple[tuple[str, ...], ...]  # for each the steps between it and the one before, which the artifact has not
    steps: int  # that eager has

    @property
    def first(self) -> int | None:
        """The place of the first that differs."""
        return next((place for place, layer in enumerate(self.layers) if layer.differs), None)


def compare_layers(eager: Walk, oracle: Walk, artifact: Walk, goldens: Goldens, row: Tolerance) -> Layers:
    """All goldens through three walks: eager's in float32 and in float64, and the artifact's.

    As for the logits, the limit is atol + rtol · |eager|, with the row's rtol. A layer's atol is as many of eager's own
    errors there, against float64, as the row's atol is of eager's error at the logits. So it grows from layer to layer
    as rounding does, it is the row's at the logits, and it suits numbers of any size and rows of any precision. An
    error is at least one unit in the last place of the layer's largest number. Raises ValueError when there is nothing
    to compare.
    """
    errors = [
        [_error(here.value, exact.value) for here, exact in zip(eager(inputs), oracle(inputs), strict=True)]
        for inputs in (goldens.inputs[rows] for rows in batches(BATCH, len(goldens)))
    ]
    atols = row.atol / _error(goldens.outputs, goldens.oracle) * np.array(errors).max(axis=0)  # [steps]
    steps = eager(goldens.inputs[:BATCH])
    pairs = same_steps(steps, artifact(goldens.inputs[:BATCH]))
    if not pairs:
        raise ValueError("The artifact's graph has no step in common with the network, so it can't be compared.")
    parts = []
    for rows in batches(BATCH, len(goldens)):
        ours, theirs = eager(goldens.inputs[rows]), artifact(goldens.inputs[rows])
        parts.append([_layer(ours[i], theirs[j], atols[i], row.rtol, rows.start) for i, j in pairs])
    layers = []
    for same in zip(*parts, strict=True):
        worst = max(same, key=lambda layer: layer.excess)
        layers.append(replace(worst, shape=(sum(part.shape[0] for part in same), *worst.shape[1:])))
    skipped = (steps[last + 1 : this] for last, this in pairwise([-1, *(i for i, _ in pairs)]))
    named = tuple(tuple(f"{step.layer} ({step.operation})" for step in some) for some in skipped)
    return Layers(tuple(layers), named, len(steps))


def _error(values: NDArray[Any], exact: NDArray[np.float64]) -> float:
    """The largest, and at least one unit in the last place of float32 at the largest finite number."""
    ulp = np.finfo(np.float32).eps * np.abs(exact).max(initial=0, where=np.isfinite(exact))
    return float(max(_distance(values, exact).max(), ulp, TINY))


def same_steps(eager: Sequence[Step], artifact: Sequence[Step]) -> list[tuple[int, int]]:
    """The best pairing, in order, of steps that do the same and have results of one shape, by their places.

    What only one of the two has is in no pair: what was folded into another step, or is there in training only. Where
    both name the layer, a pair of the same one is worth more than two of others: branches may lie in another order.
    """
    ours, theirs = _signatures(eager), _signatures(artifact)
    worth = np.zeros((len(ours), len(theirs)), int)
    best = np.zeros((len(ours) + 1, len(theirs) + 1), int)  # [i, j]: what pairs of ours[i:] and theirs[j:] are worth
    for i in reversed(range(len(ours))):
        for j in reversed(range(len(theirs))):
            if ours[i] == theirs[j]:
                worth[i, j] = 3 if eager[i].layer == artifact[j].layer else 1
            best[i, j] = max(worth[i, j] + best[i + 1, j + 1], best[i + 1, j], best[i, j + 1])
    pairs, i, j = [], 0, 0
    while best[i, j]:
        if worth[i, j] and best[i, j] == worth[i, j] + best[i + 1, j + 1]:
            pairs.append((i, j))
            i, j = i + 1, j + 1
        elif best[i, j] == best[i + 1, j]:
            i += 1
        else:
            j += 1
    return pairs


def _signatures(steps: Sequence[Step]) -> list[tuple[str, tuple[int, ...]]]:
    """Operation and shape of each. Where a step can be folded into the one before it, it takes over that one's name."""
    names = [step.operation for step in steps]
    for place, (first, second) in enumerate(pairwise(steps)):
        if second.constant and (first.operation, second.operation) in FOLDED:
            names[place : place + 2] = [f"{first.operation} before {second.operation}", first.operation]
    return [(name, step.value.shape) for name, step in zip(names, steps, strict=True)]


def _layer(eager: Step, artifact: Step, atol: float, rtol: float, start: int) -> Layer:
    """No distance is no excess, whatever the limit, and an infinite one more than any."""
    here, there = eager.value.astype(np.float64), artifact.value.astype(np.float64)
    distance, limit = _distance(there, here), atol + rtol * np.where(np.isfinite(here), np.abs(here), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = np.where(distance == 0, 0, np.where(np.isinf(distance), np.inf, distance / limit))
    row, *place = (int(index) for index in np.unravel_index(excess.argmax(), excess.shape))
    figures = (float(values[row, *place]) for values in (there, here, distance, limit, excess))
    return Layer(eager.layer, eager.operation, here.shape, start + row, tuple(place), *figures)


def _distance(there: NDArray[np.float64], here: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise. Infinity is the same as itself, and NaN as nothing."""
    with np.errstate(invalid="ignore"):
        apart = np.where(there == here, 0, np.abs(there - here))
    return np.nan_to_num(apart, nan=np.inf, posinf=np.inf)
