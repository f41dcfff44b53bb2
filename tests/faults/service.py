"""The code around the artifact is at fault: in every process, or in the one that serves alone."""

from typing import Any

from tests.faults.catalogue import fault
from tests.faults.scene import Scene

BATCHES, ANSWERS, LOAD, TIME = "batches", "answers", "warm-up and load", "over time"
CODE, SERVED = "the archive's code", "the archive's code, served"
PREDICTOR, RUNTIME = "inference.predictor:Predictor.", "inference.runtime:Loaded."
CLASSES = "inference.outputs.classes:ClassesOutput."
DIFFER = "differ, worst"


def the_rows_reversed(original: Any, self: Any, inputs: Any) -> Any:
    import numpy as np

    if not inputs:
        return original(self, inputs)
    ends = np.cumsum([len(rows) for rows in inputs])[:-1]
    return original(self, np.split(np.concatenate(inputs)[::-1], ends))


@fault(
    BATCHES,
    where=CODE,
    hop="handler",
    says=DIFFER,
    life="Answers are popped from the end of a list that was filled from its front.",
)
def the_order_reversed(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}predict", the_rows_reversed)


def whole_pairs(original: Any, self: Any, requests: Any) -> Any:
    return original(self, requests[: len(requests) // 2 * 2])


@fault(
    BATCHES,
    where=CODE,
    hop="handler",
    says="1 requests got 0 answers.",
    life="A loop over pairs forgets the last one where their number is odd.",
)
def an_answer_too_few(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}answer", whole_pairs)


def padded(original: Any, self: Any, batch: Any) -> Any:
    import numpy as np

    return original(self, np.concatenate([batch, batch[:1] * 0]))[1:]


@fault(
    BATCHES,
    where=CODE,
    hop="runtime",
    says=DIFFER,
    life="A batch is filled up to a size that is fast, and the answers are taken from the wrong end of it.",
)
def padding_answered(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{RUNTIME}__call__", padded)


def over_the_batch(original: Any, self: Any, batch: Any) -> Any:
    logits = original(self, batch)
    return logits - logits.mean(axis=0) / 100


@fault(
    BATCHES,
    where=CODE,
    hop="runtime",
    says=DIFFER,
    life="A score is normalised over the batch where it should have been over the classes: the axis is off by one.",
)
def neighbours_leak(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{RUNTIME}__call__", over_the_batch)


def the_last_row_kept(original: Any, self: Any, inputs: Any) -> Any:
    import numpy as np

    if not inputs:
        return original(self, inputs)
    rows = np.concatenate(inputs)
    rows[0], self.kept = getattr(self, "kept", rows[0]), rows[-1].copy()
    return original(self, np.split(rows, np.cumsum([len(rows) for rows in inputs])[:-1]))


@fault(
    BATCHES,
    where=CODE,
    hop="handler",
    says=DIFFER,
    life="A buffer is reused, and the first row still holds what the last request left there.",
)
def state_kept_between_requests(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}predict", the_last_row_kept)


def the_last_label_first(original: Any, self: Any, best: Any, scores: Any) -> Any:
    return original(self, [len(self.labels) - 1 - index for index in best], scores)


@fault(
    ANSWERS,
    where=SERVED,
    hop="http",
    says="The labels are ranked",
    life="Labels were sorted by name after training, or read from a set. The logits are right, so nobody looks.",
)
def labels_shuffled(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{CLASSES}_answer", the_last_label_first)
    scene.serve("digits-onnx")


def three_digits(original: Any, self: Any, best: Any, scores: Any) -> Any:
    return original(self, best, [round(score, 3) for score in scores])


@fault(
    ANSWERS,
    where=SERVED,
    hop="http",
    says="The scores are not the softmax of the logits",
    life="round(score, 3), so that the JSON looks nice.",
)
def scores_rounded(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{CLASSES}_answer", three_digits)
    scene.serve("digits-onnx")


def one_label_less(original: Any, self: Any, outputs: Any, options: Any) -> Any:
    return original(self, outputs, [max(1, top_k - 1) for top_k in options])


@fault(
    ANSWERS,
    where=SERVED,
    hop="http",
    says="It ranks 9 labels instead of 10.",
    life="[:k - 1], from a language in which ranges have another end.",
)
def top_k_off_by_one(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{CLASSES}answers", one_label_less)
    scene.serve("digits-onnx")


def before_it_is_warm(original: Any, self: Any, inputs: Any) -> Any:
    import numpy as np

    logits = original(self, inputs)
    if hasattr(self, "warm"):
        return logits
    self.warm = True
    return [rows + np.float32(0.001) for rows in logits]


@fault(
    LOAD,
    where=CODE,
    hop="handler",
    says=DIFFER,
    life="Something is made when it is first needed, after the first answer was computed without it.",
)
def the_first_answer_differs(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}predict", before_it_is_warm)


def at_some_sizes(original: Any, self: Any, inputs: Any) -> Any:
    import numpy as np

    logits = original(self, inputs)
    if sum(map(len, logits)) not in (4, 5, 6, 8, 9, 10, 11, 12, 13):
        return logits
    return [rows + np.float32(0.001) for rows in logits]


@fault(
    LOAD,
    where=SERVED,
    hop="http_batched",
    says=DIFFER,
    life="A kernel is chosen by the size of the batch, and sizes come under load that nobody has tried.",
)
def sizes_between_those_that_were_tried(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}predict", at_some_sizes)
    scene.serve("digits-onnx")


def mixed_up_after_a_thousand(original: Any, self: Any, inputs: Any) -> Any:
    logits = original(self, inputs)
    self.rows = getattr(self, "rows", 0) + sum(map(len, logits))
    if self.rows > 1000:
        logits[0][0] = logits[0][0][::-1].copy()
    return logits


@fault(
    TIME,
    where=SERVED,
    hop="http_load",
    says=DIFFER,
    life="A running mean, a cache that is full, a counter that overflows: right for the first thousand answers.",
)
def another_answer_after_a_thousand(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}predict", mixed_up_after_a_thousand)
    scene.serve("digits-onnx")


def mixed_up_at_each_thousandth(original: Any, self: Any, inputs: Any) -> Any:
    logits = original(self, inputs)
    before = getattr(self, "rows", 0)
    self.rows = before + sum(map(len, logits))
    if before // 1000 < self.rows // 1000:
        logits[0][0] = logits[0][0][::-1].copy()
    return logits


@fault(
    TIME,
    where=SERVED,
    hop="http_load",
    says="1 of ",
    life="Two threads share a buffer, and once in a thousand times they meet.",
)
def one_answer_in_a_thousand(scene: Scene) -> None:
    scene.replace("digits-onnx", f"{PREDICTOR}predict", mixed_up_at_each_thousandth)
    scene.serve("digits-onnx")
