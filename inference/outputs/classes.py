"""Classes: one label is the best. Logits become probabilities by softmax, and the labels are ranked by them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from inference.base import BadInput
from inference.outputs import Flip, Headers, Output, Outputs

TOP_K = "X-Top-K"
DEFAULT_TOP_K = 5
ROUNDING = 1e-12  # softmax in float64 on both sides

Score = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Candidate:
    label: str
    score: Score


@dataclass(frozen=True)
class ClassPrediction:
    """The best label, the `top` ones with the best first, and in `served` what the response attested (`ATTESTED`)."""

    label: str
    score: Score
    top: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    served: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        first, *others = [f"{one.label} ({one.score:.3f})" for one in self.top]
        return first + (f", then {', '.join(others)}" if others else "")


class ClassesOutput(Output):
    """float32 logits [C], one for each label."""

    name: str = "logits"
    kind: Literal["classes"] = "classes"
    labels: Annotated[tuple[str, ...], Field(min_length=2)]

    element: ClassVar[str] = "logit"
    prediction: ClassVar[Any] = ClassPrediction
    columns: ClassVar[tuple[str, ...]] = ("label", "score")

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be distinct")
        return self

    @property
    def shape(self) -> tuple[int]:
        return (len(self.labels),)

    @property
    def categories(self) -> tuple[str, ...]:
        return self.labels

    def options(self, headers: Headers) -> int:
        """How many labels are ranked."""
        text, classes = headers.get(TOP_K.lower(), ""), len(self.labels)
        if not text:
            return min(DEFAULT_TOP_K, classes)
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= classes):
            raise BadInput(f"{TOP_K} is {text[:40]!r}. Send a whole number from 1 to {classes}.")
        return int(text)

    def answers(self, outputs: Sequence[Outputs], options: Sequence[int]) -> Iterator[list[dict[str, Any]]]:
        """All are ranked at once: a batch of requests takes a few calls of NumPy's."""
        if not outputs:
            return
        rows = np.concatenate(outputs)
        best = np.argsort(-rows, axis=1, kind="stable")
        with np.errstate(invalid="ignore"):  # in rows that are not finite
            scores = np.take_along_axis(softmax(rows), best, axis=1)
        start = 0
        for own, top_k in zip(outputs, options, strict=True):
            part = slice(start, start := start + len(own))
            top = zip(best[part, :top_k].tolist(), scores[part, :top_k].tolist(), strict=True)
            yield [self._answer(*row) for row in top]

    def _answer(self, best: list[int], scores: list[float]) -> dict[str, Any]:
        labels = self.labels
        top = [{"label": labels[index], "score": score} for index, score in zip(best, scores, strict=True)]
        return {**top[0], "top": top}

    def category(self, answer: Mapping[str, Any]) -> str:
        return str(answer["label"])

    @property
    def variants(self) -> list[dict[str, str]]:
        return [{}, *({TOP_K: str(count)} for count in range(1, len(self.labels) + 1))]

    def disagreement(
        self, answer: ClassPrediction, output: Outputs, slack: NDArray[np.float64], headers: Headers
    ) -> str:
        count = self.options({name.lower(): value for name, value in headers.items()})
        ranked = [candidate.label for candidate in answer.top]
        if len(ranked) != count:
            return f"It ranks {len(ranked)} labels instead of {count}."
        if len(set(ranked)) != count or not set(ranked) <= set(self.labels):
            return f"It ranks {ranked}; the labels are {list(self.labels)}."
        order = [self.labels.index(label) for label in ranked]
        if answer.label != ranked[0] or not _could_be_ranked(order, output, slack):
            best = [self.labels[index] for index in np.argsort(-output, kind="stable")[:count].tolist()]
            return f"The labels are ranked {ranked} with {answer.label} as the best, by the logits {best}."
        if answer.score != answer.top[0].score:
            return f"Its score is {answer.score}, and {answer.top[0].score} that of the same label among the ranked."
        scores = np.array([candidate.score for candidate in answer.top])
        distance = np.abs(scores - softmax(output)[order]).max()
        if distance <= score_bound(slack):
            return ""
        return f"The scores are not the softmax of the logits: they differ by {distance:.2g}."

    def flips(self, names: Sequence[str], eager: Outputs, answered: Outputs) -> Iterator[Flip]:
        """Where another label is the best. The margin is eager's first logit minus its second."""
        second, first = np.sort(eager, axis=1)[:, -2:].T  # each [N]
        ours, theirs = answered.argmax(axis=1), eager.argmax(axis=1)  # each [N]
        for row in np.flatnonzero(ours != theirs):
            yield Flip(names[int(row)], int(theirs[row]), int(ours[row]), float(first[row] - second[row]))

    def share_right(self, outputs: Outputs, targets: NDArray[Any]) -> float:
        return float((outputs.argmax(axis=1) == targets).mean())


KIND = ClassesOutput


def softmax(logits: Outputs) -> NDArray[np.float64]:
    """Along the last axis, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def score_bound(slack: NDArray[np.float64]) -> float:
    """How far apart two scores may be whose logits are `slack` [C] apart at most.

    Along the way from one to the other, d p_i = p_i (1 - p_i) (d z_i - m), where m is a weighted mean of the other
    d z_j. The first two factors are 1/4 at most together, and the third twice the largest slack: half of it in all.
    """
    return float(slack.max() / 2 + ROUNDING)


def _could_be_ranked(order: list[int], logits: Outputs, slack: NDArray[np.float64]) -> bool:
    """Whether no label comes before one that is ahead of it by more than the slack of both."""
    low, high = logits - slack, logits + slack  # each [C]
    for place in order:
        low[place] = -np.inf  # it is behind no later one
        if (low > high[place]).any():
            return False
    return True
