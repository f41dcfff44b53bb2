"""Output kinds, a module each: how a graph's rows become an answer, and what makes two answers the same decision."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, create_model

from inference.base import Frozen, kinds

Outputs = NDArray[np.float32]  # [N, *shape]
Headers = Mapping[str, str]  # of a request, their names in lower case


@dataclass(frozen=True)
class Flip:
    """One input that is decided otherwise. `margin` says how sure eager was, in the output's own measure."""

    golden: str
    eager: int
    answered: int
    margin: float


class Output(Frozen, ABC):
    """One named output of a contract. Its kind, a class of a module beside this one, adds fields and says how."""

    name: str
    kind: str

    element: ClassVar[str] = "value"  # one of a row's, for sentences
    # What a client reads an answer's JSON as: a frozen dataclass, whose field `served` is what the response attested
    # (`ATTESTED`), and whose `str()` is a line for people.
    prediction: ClassVar[Any]
    columns: ClassVar[tuple[str, ...]]  # the fields of it that a table shows

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of one row."""

    @property
    def categories(self) -> tuple[str, ...]:
        """What rows are counted by, in a metric: a row's answer names one of them, where there are any."""
        return ()

    @abstractmethod
    def options(self, headers: Headers) -> Any:
        """What a request asks of its answer, by its own headers. Raises BadInput."""

    @abstractmethod
    def answers(self, outputs: Sequence[Outputs], options: Sequence[Any]) -> Iterator[list[dict[str, Any]]]:
        """Outputs [N_i, *shape] and options of several requests → for each request a JSON object for each row."""

    @abstractmethod
    def category(self, answer: Mapping[str, Any]) -> str:
        """That of a row's answer; not asked where there are none."""

    @property
    @abstractmethod
    def variants(self) -> list[dict[str, str]]:
        """Headers that ask for the answer in each of its ways: by default first, with all there is last."""

    @abstractmethod
    def disagreement(self, answer: Any, output: Outputs, slack: NDArray[np.float64], headers: Headers) -> str:
        """What is wrong with a `prediction` made from an output [*shape] that may be off by `slack` [*shape], or ""."""

    @abstractmethod
    def flips(self, names: Sequence[str], eager: Outputs, answered: Outputs) -> Iterator[Flip]:
        """The inputs that are decided otherwise than by eager; each array is [N, *shape]."""

    @abstractmethod
    def share_right(self, outputs: Outputs, targets: NDArray[Any]) -> float:
        """The share of outputs [N, *shape], 0 to 1, that are right for their target [N]."""


def parse_predictions(body: bytes, is_batch: bool) -> list[Any]:
    """The JSON of an answer, of whichever kind, with nothing coerced. Raises pydantic's ValidationError."""
    one, several = _adapters()
    return several.validate_json(body, strict=True).predictions if is_batch else [one.validate_json(body, strict=True)]


@cache
def _adapters() -> tuple[TypeAdapter[Any], TypeAdapter[Any]]:
    union: Any = reduce(or_, (kind.prediction for kind in kinds("output").values()))
    return TypeAdapter(union), TypeAdapter(create_model("Predictions", predictions=(list[union], ...)))


def columns() -> tuple[str, ...]:
    """Those of all kinds' tables."""
    return tuple(dict.fromkeys(column for kind in kinds("output").values() for column in kind.columns))
