"""The code around the artifact is at fault: in every process, or in the one that serves alone."""

from tests.faults.catalogue import fault
from tests.faults.scene import Scene

BATCHES, ANSWERS, LOAD, TIME = "batches", "answers", "warm-up and load", "over time"
CODE, SERVED = "the archive's code", "the archive's code, served"
PREDICTOR = "inference/predictor.py"
DIFFER = "differ, worst"
RETURN = "        return np.split(logits,"


@fault(
    BATCHES,
    where=CODE,
    hop="handler",
    says=DIFFER,
    life="Answers are popped from the end of a list that was filled from its front.",
)
def the_order_reversed(scene: Scene) -> None:
    scene.code("digits-onnx", PREDICTOR, "joined(inputs)\n", "joined(inputs)[::-1]\n")


@fault(
    BATCHES,
    where=CODE,
    hop="handler",
    says="1 requests got 0 answers.",
    life="A loop over pairs forgets the last one, or a refused request is left out of the answers.",
)
def an_answer_too_few(scene: Scene) -> None:
    scene.code(
        "digits-onnx",
        PREDICTOR,
        "else query for query in queries]",
        "else query for query in queries[1:]]",
    )


@fault(
    BATCHES,
    where=CODE,
    hop="runtime",
    says=DIFFER,
    life="A batch is filled up to a size that is fast, and the answers are taken from the wrong end of it.",
)
def padding_answered(scene: Scene) -> None:
    padded = "self.run(np.concatenate([batch, batch[:1] * 0]))[1:]\n"
    scene.code("digits-onnx", "inference/runtime.py", "self.run(batch)\n", padded)


@fault(
    BATCHES,
    where=CODE,
    hop="runtime",
    says=DIFFER,
    life="A score is normalised over the batch where it should have been over the classes: the axis is off by one.",
)
def neighbours_leak(scene: Scene) -> None:
    leaking = "        logits = self.run(batch)\n        logits = logits - logits.mean(axis=0) / 100\n"
    scene.code("digits-onnx", "inference/runtime.py", "        logits = self.run(batch)\n", leaking)


@fault(
    BATCHES,
    where=CODE,
    hop="handler",
    says=DIFFER,
    life="A buffer is reused, and the first row still holds what the last request left there.",
)
def state_kept_between_requests(scene: Scene) -> None:
    kept = (
        '        rows = joined(inputs)\n        rows[0], self.kept = getattr(self, "kept", rows[0]), rows[-1].copy()\n'
    )
    scene.code("digits-onnx", PREDICTOR, "        rows = joined(inputs)\n", kept)


@fault(
    ANSWERS,
    where=SERVED,
    hop="http",
    says="The labels are ranked",
    life="Labels were sorted by name after training, or read from a set. The logits are right, so nobody looks.",
)
def labels_shuffled(scene: Scene) -> None:
    scene.code(
        "digits-onnx",
        PREDICTOR,
        "labels = self.contract.output.labels\n",
        "labels = self.contract.output.labels[::-1]\n",
    )
    scene.serve("digits-onnx")


@fault(
    ANSWERS,
    where=SERVED,
    hop="http",
    says="The scores are not the softmax of the logits",
    life="round(score, 3), so that the JSON looks nice.",
)
def scores_rounded(scene: Scene) -> None:
    scene.code("digits-onnx", PREDICTOR, '"score": score}', '"score": round(score, 3)}')
    scene.serve("digits-onnx")


@fault(
    ANSWERS,
    where=SERVED,
    hop="http",
    says="It ranks 9 labels instead of 10.",
    life="[:k - 1], from a language in which ranges have another end.",
)
def top_k_off_by_one(scene: Scene) -> None:
    named = "        top = best[:, : query.top_k].tolist(), scores[:, : query.top_k].tolist()\n"
    scene.code("digits-onnx", PREDICTOR, named, named.replace("query.top_k", "max(1, query.top_k - 1)"))
    scene.serve("digits-onnx")


@fault(
    LOAD,
    where=CODE,
    hop="handler",
    says=DIFFER,
    life="Something is made when it is first needed, after the first answer was computed without it.",
)
def the_first_answer_differs(scene: Scene) -> None:
    once = '        if not hasattr(self, "warm"):\n            self.warm = True\n            logits = logits + 0.001\n'
    scene.code("digits-onnx", PREDICTOR, RETURN, once + RETURN)


@fault(
    LOAD,
    where=SERVED,
    hop="http_batched",
    says=DIFFER,
    life="A kernel is chosen by the size of the batch, and sizes come under load that nobody has tried.",
)
def sizes_between_those_that_were_tried(scene: Scene) -> None:
    some = (
        "        if len(logits) in (4, 5, 6, 8, 9, 10, 11, 12, 13):\n            logits = logits + np.float32(0.001)\n"
    )
    scene.code("digits-onnx", PREDICTOR, RETURN, some + RETURN)
    scene.serve("digits-onnx")


def _counting(condition: str) -> str:
    """Code that mixes up the first row of a batch where `condition` holds, by the rows `before` and `after` it."""
    return (
        '        before = getattr(self, "rows", 0)\n'
        "        after = self.rows = before + len(logits)\n"
        f"        if {condition}:\n"
        "            logits[0] = logits[0][::-1].copy()\n"
    )


@fault(
    TIME,
    where=SERVED,
    hop="http_load",
    says=DIFFER,
    life="A running mean, a cache that is full, a counter that overflows: right for the first thousand answers.",
)
def another_answer_after_a_thousand(scene: Scene) -> None:
    scene.code("digits-onnx", PREDICTOR, RETURN, _counting("after > 1000") + RETURN)
    scene.serve("digits-onnx")


@fault(
    TIME,
    where=SERVED,
    hop="http_load",
    says="1 of ",
    life="Two threads share a buffer, and once in a thousand times they meet.",
)
def one_answer_in_a_thousand(scene: Scene) -> None:
    scene.code("digits-onnx", PREDICTOR, RETURN, _counting("before // 1000 < after // 1000") + RETURN)
    scene.serve("digits-onnx")
