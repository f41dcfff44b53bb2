"""An answer in JSON is right when logits within tolerance of eager's could have made it, and wrong beyond that."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from inference.outputs import Outputs
from inference.outputs.classes import TOP_K, Candidate, ClassesOutput, ClassPrediction, score_bound

LABELS = ("a", "b", "c", "d")
OUTPUT = ClassesOutput(labels=LABELS)
LOGITS = np.array([0.5, 3.0, -2.0, 2.5], np.float32)
EXACT, LOOSE = np.zeros(4), np.full(4, 0.1)

finite = arrays.arrays(np.float32, 4, elements=st.floats(-20, 20, width=32))
shifts = arrays.arrays(np.float64, 4, elements=st.floats(-1, 1))


def answer(logits: np.ndarray, count: int = 4) -> ClassPrediction:
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    best = np.argsort(-logits, kind="stable")[:count]
    top = tuple(Candidate(LABELS[index], float((shifted / shifted.sum())[index])) for index in best)
    return ClassPrediction(top[0].label, top[0].score, top)


def disagreement(found: ClassPrediction, logits: Outputs, slack: np.ndarray, count: int = 4) -> str:
    """With what was asked for: `count` labels."""
    return OUTPUT.disagreement(found, logits, slack, {TOP_K: str(count)})


@given(finite, st.integers(1, 4))
def test_the_softmax_of_just_these_logits_agrees_with_no_slack(logits: Outputs, count: int) -> None:
    assert disagreement(answer(logits, count), logits, EXACT, count) == ""


@given(finite, shifts, st.floats(1e-6, 3), st.integers(1, 4))
def test_the_softmax_of_any_logits_within_the_slack_agrees(
    logits: Outputs, shift: np.ndarray, slack: float, count: int
) -> None:
    near = logits.astype(np.float64) + shift * slack
    assert disagreement(answer(near, count), logits, np.full(4, slack * (1 + 1e-9)), count) == ""


def test_the_bound_on_scores_is_reached_and_no_wider() -> None:
    slack = 1e-3  # of two logits that are even
    moved = 1 / (1 + np.exp(-2 * slack)) - 0.5  # the first up, the second down, by the slack
    assert moved <= score_bound(np.full(2, slack)) <= moved * 1.001


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (answer(LOGITS, 3), "It ranks 3 labels instead of 4."),
        (replace(answer(LOGITS), top=answer(LOGITS).top[:1] * 4), "the labels are ['a', 'b', 'c', 'd']"),
        (replace(answer(LOGITS), label="d"), "with d as the best"),
        (answer(LOGITS[[0, 3, 2, 1]]), "The labels are ranked ['d', 'b', 'a', 'c']"),
        (replace(answer(LOGITS), score=0.5), "Its score is 0.5"),
        (answer(LOGITS * 1.5), "The scores are not the softmax of the logits"),
    ],
)
def test_what_no_such_logits_could_have_made_is_said(wrong: ClassPrediction, sentence: str) -> None:
    assert sentence in disagreement(wrong, LOGITS, LOOSE)


def test_labels_may_change_places_only_where_eager_is_as_unsure_as_the_slack() -> None:
    close = np.array([0.5, 3.0, -2.0, 2.95], np.float32)
    other_way_round = answer(np.array([0.5, 2.95, -2.0, 3.0]))
    assert disagreement(other_way_round, close, LOOSE) == ""
    assert "The labels are ranked" in disagreement(other_way_round, close, LOOSE / 5)
