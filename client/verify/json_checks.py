"""An answer in JSON against the logits that it should have been made from."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from client.answers import Logits, Prediction

ROUNDING = 1e-12  # softmax in float64 on both sides


def disagreement(
    answer: Prediction, logits: Logits, slack: NDArray[np.float64], labels: Sequence[str], count: int
) -> str:
    """What is wrong with an answer of `count` labels, by logits [C] that may each be off by `slack` [C]."""
    ranked = [candidate.label for candidate in answer.top]
    if len(ranked) != count:
        return f"It ranks {len(ranked)} labels instead of {count}."
    if len(set(ranked)) != count or not set(ranked) <= set(labels):
        return f"It ranks {ranked}; the labels are {list(labels)}."
    order = [labels.index(label) for label in ranked]
    if answer.label != ranked[0] or not _ranked(order, logits, slack):
        best = [labels[index] for index in np.argsort(-logits, kind="stable")[:count]]
        return f"The labels are ranked {ranked} with {answer.label} as the best, by the logits {best}."
    if answer.score != answer.top[0].score:
        return f"Its score is {answer.score}, and {answer.top[0].score} that of the same label among the ranked."
    scores = np.array([candidate.score for candidate in answer.top])
    distance, bound = np.abs(scores - _softmax(logits)[order]).max(), score_bound(slack)
    return "" if distance <= bound else f"The scores are not the softmax of the logits: they differ by {distance:.2g}."


def score_bound(slack: NDArray[np.float64]) -> float:
    """How far apart two scores may be whose logits are `slack` [C] apart at most.

    Along the way from one to the other, d p_i = p_i (1 - p_i) (d z_i - m), where m is a weighted mean of the other
    d z_j. The first two factors are 1/4 at most together, and the third twice the largest slack: half of it in all.
    """
    return float(slack.max() / 2 + ROUNDING)


def _ranked(order: list[int], logits: Logits, slack: NDArray[np.float64]) -> bool:
    """Whether no label comes before one that is ahead of it by more than the slack of both."""
    low, high = logits - slack, logits + slack  # each [C]
    behind = set(range(len(logits)))
    for place in order:
        behind.remove(place)
        if any(low[other] > high[place] for other in behind):
            return False
    return True


def _softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(shifted / shifted.sum())
