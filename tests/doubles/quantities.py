"""A kind of output: named quantities with their units, and no decision among them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from inference.base import BadInput
from inference.outputs import Flip, Headers, Output, Outputs

DIGITS = "X-Digits"
RIGHT = 0.5  # how near is right


@dataclass(frozen=True)
class Quantities:
    quantities: dict[str, float]
    units: dict[str, str]
    served: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g} {self.units[name]}" for name, value in self.quantities.items())


class QuantitiesOutput(Output):
    name: str = "estimates"
    kind: Literal["quantities"] = "quantities"
    units: dict[str, str]

    element: ClassVar[str] = "quantity"
    prediction: ClassVar[Any] = Quantities
    columns: ClassVar[tuple[str, ...]] = ("quantities",)

    @property
    def shape(self) -> tuple[int]:
        return (len(self.units),)

    def options(self, headers: Headers) -> int | None:
        """How many digits behind the point are wanted; None for all."""
        text = headers.get(DIGITS.lower(), "")
        if text and not (text.isascii() and text.isdigit() and len(text) == 1):
            raise BadInput(f"{DIGITS} is {text[:40]!r}. Send one digit.")
        return int(text) if text else None

    def answers(self, outputs: Sequence[Outputs], options: Sequence[int | None]) -> Iterator[list[dict[str, Any]]]:
        for rows, digits in zip(outputs, options, strict=True):
            yield [{"quantities": self._named(row, digits), "units": dict(self.units)} for row in rows.tolist()]

    def _named(self, row: list[float], digits: int | None) -> dict[str, float]:
        values = row if digits is None else [round(value, digits) for value in row]
        return dict(zip(self.units, values, strict=True))

    def category(self, answer: Mapping[str, Any]) -> str:
        raise AssertionError(f"nobody counts {answer}")

    @property
    def variants(self) -> list[dict[str, str]]:
        return [{DIGITS: "2"}, {}]

    def disagreement(self, answer: Quantities, output: Outputs, slack: NDArray[np.float64], headers: Headers) -> str:
        rounding = 0.51 * 10.0 ** -int(headers[DIGITS]) if DIGITS in headers else 0.0
        if answer.units != self.units or list(answer.quantities) != list(self.units):
            return f"It names {answer.units} instead of {self.units}."
        apart = np.abs(np.array([*answer.quantities.values()]) - output)
        return "" if (apart <= slack + rounding).all() else f"The quantities are {apart.max():.2g} apart."

    def flips(self, names: Sequence[str], eager: Outputs, answered: Outputs) -> Iterator[Flip]:
        assert len(names) == len(eager) == len(answered)
        return iter(())

    def share_right(self, outputs: Outputs, targets: NDArray[Any]) -> float:
        return float((np.abs(outputs - targets) <= RIGHT).all(axis=1).mean())


KIND = QuantitiesOutput
