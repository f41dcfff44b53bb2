"""Bytes → answers: load, decode, predict, encode. Knows no server; `handler.py` fits it to TorchServe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference import parity
from inference.base import BadInput, Decoded, OutOfMemory
from inference.goldens import Goldens
from inference.inputs.image.decoders import CPU, NVJPEG, Decoder
from inference.messages import NO_MEMORY, Answer, Query, Request, as_json, dumps, failure
from inference.npy import is_npy
from inference.protocol import ATTESTED, DEFAULT_TOP_K, JSON, NPY, TOP_K
from inference.runtime import Batch, Loaded, Logits, joined

Ranks = NDArray[np.intp]  # [N, C], classes
Scores = NDArray[np.float64]  # [N, C], probabilities


class Predictor:
    """A model ready to answer. `attestation` says what computes the answers, field by field of `protocol.ATTESTED`."""

    def __init__(self, loaded: Loaded, attestation: Mapping[str, str], decoder: Decoder) -> None:
        self.loaded = loaded
        self.contract = loaded.contract
        self.attestation = attestation
        self.decoder = decoder

    def check(self, goldens: Goldens) -> None:
        """Answers the goldens as requests. Raises RuntimeError unless every answer is eager's, within tolerance.

        Where the archive asks for nvJPEG, some of them must have been decoded by it. Raises OutOfMemory, too.
        """
        if goldens.weights != self.loaded.weights:
            raise RuntimeError(
                "The goldens were answered by other weights than this artifact's. Export with new goldens."
            )
        requests = [Request(body, accept=NPY) for body in goldens.requests]
        parts = parity.batches(self.contract.max_batch, len(goldens))
        answers = [answer for part in parts for answer in self.answer(requests[part])]
        refused = next((answer for answer in answers if answer.status != 200), None)
        if refused is NO_MEMORY:
            raise OutOfMemory(NO_MEMORY.body.decode())
        if refused:
            raise RuntimeError(f"A golden was refused: {refused.body.decode()}")
        decoders = [answer.headers[ATTESTED["decoder"]] for answer in answers]
        if self.attestation["decoder"] != CPU and NVJPEG not in decoders:
            raise RuntimeError("The archive asks for nvJPEG, and it decoded no golden. Export with --decoder cpu.")
        logits = np.concatenate([np.load(BytesIO(answer.body)) for answer in answers])
        verdict = parity.compare(logits, goldens, self._tolerance(), parity.slack(self.contract.model, decoders))
        if not verdict.ok:
            raise RuntimeError(f"The goldens are answered wrongly: {verdict.sentence}")

    def _tolerance(self) -> parity.Tolerance:
        loaded = self.loaded
        return parity.tolerance(self.contract.model, self.attestation["runtime"], loaded.precision, loaded.device)

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request, in order. A bad request gets a 400 and doesn't touch its batch-mates.

        All the good ones get a 503 where they are too much at once for the device's memory.
        """
        queries = [self._understand(request) for request in requests]
        answers = iter(self._answers([query for query in queries if isinstance(query, Query)]))
        return [next(answers) if isinstance(query, Query) else query for query in queries]

    def _answers(self, queries: Sequence[Query]) -> list[Answer]:
        try:
            decoded = self.decode([query.request for query in queries])
        except OutOfMemory:
            return [NO_MEMORY] * len(queries)
        good = [(query, one) for query, one in zip(queries, decoded, strict=True) if isinstance(one, Decoded)]
        try:
            predicted = iter(self._predicted(good))
        except OutOfMemory:
            predicted = iter([NO_MEMORY] * len(good))
        return [next(predicted) if isinstance(one, Decoded) else failure(400, "BadInput", str(one)) for one in decoded]

    def _predicted(self, good: Sequence[tuple[Query, Decoded]]) -> list[Answer]:
        """Raises OutOfMemory."""
        logits = self.predict([decoded.pixels for _, decoded in good])
        encoded = self.encode(logits, [query for query, _ in good])
        attested = {ATTESTED[name]: value for name, value in self.attestation.items()}
        answers = []
        for answer, (_, decoded), size in zip(encoded, good, self._executed_sizes(logits), strict=True):
            own = {ATTESTED["decoder"]: decoded.decoder, ATTESTED["batch_size"]: str(size)}
            answers.append(replace(answer, headers=attested | own))
        return answers

    def _executed_sizes(self, logits: Sequence[Logits]) -> Iterator[int]:
        """The largest batch that each request's rows ran in: the first of them, as only the last one isn't full."""
        total, start = sum(map(len, logits)), 0
        for rows in logits:
            yield min(self.contract.max_batch, total - start // self.contract.max_batch * self.contract.max_batch)
            start += len(rows)

    def decode(self, requests: Sequence[Request]) -> list[Decoded | BadInput]:
        """Raises OutOfMemory."""
        return self.decoder([(request.body, request.content_type) for request in requests])

    def predict(self, inputs: Sequence[Batch]) -> list[Logits]:
        """Several uint8 [N_i, *input.shape] → as many float32 [N_i, C], computed together by `max_batch` rows.

        Raises OutOfMemory.
        """
        if not inputs:
            return []
        rows = joined(inputs)
        logits = np.concatenate(
            [self.loaded(rows[part]) for part in parity.batches(self.contract.max_batch, len(rows))]
        )
        return np.split(logits, np.cumsum([len(pixels) for pixels in inputs])[:-1])

    def encode(self, logits: Sequence[Logits], queries: Sequence[Query]) -> list[Answer]:
        """Several float32 [N_i, C] → for each an npy file, or JSON with the most probable labels."""
        ranked = _ranked([rows for rows, query in zip(logits, queries, strict=True) if not query.lossless])
        return [
            Answer(200, NPY, _npy(rows)) if query.lossless else self._as_json(rows, *next(ranked), query)
            for rows, query in zip(logits, queries, strict=True)
        ]

    def _as_json(self, logits: Logits, best: Ranks, scores: Scores, query: Query) -> Answer:
        if not np.isfinite(logits).all():
            return failure(
                500, "NotFinite", "The model gave a value that is not finite. Ask for npy to see the logits."
            )
        top = best[:, : query.top_k].tolist(), scores[:, : query.top_k].tolist()
        predictions = [self._prediction(*row) for row in zip(*top, strict=True)]
        body = dumps(predictions[0] if query.single else {"predictions": predictions})
        return Answer(200, JSON, body, labels=tuple(prediction["label"] for prediction in predictions))

    @property
    def description(self) -> dict[str, Any]:
        """What every prediction attests, its own batch and decoder excepted, and the contract."""
        return {"attestation": dict(self.attestation), "contract": self.contract.model_dump(mode="json")}

    def _understand(self, request: Request) -> Query | Answer:
        if request.describe:
            return as_json(200, self.description)
        try:
            return self._query(request)
        except BadInput as error:
            return failure(400, "BadInput", str(error))

    def _query(self, request: Request) -> Query:
        """Raises BadInput."""
        if request.others:
            beside = ", ".join(request.others)[:80]
            raise BadInput(f"Beside the body came {beside}. Send one body, and options as headers.")
        top_k = self._top_k(request.top_k)
        return Query(request, not is_npy(request.content_type), _wants_npy(request.accept), top_k)

    def _prediction(self, best: list[int], scores: list[float]) -> dict[str, Any]:
        labels = self.contract.labels
        top = [{"label": labels[index], "score": score} for index, score in zip(best, scores, strict=True)]
        return {**top[0], "top": top}

    def _top_k(self, text: str) -> int:
        classes = len(self.contract.labels)
        if not text:
            return min(DEFAULT_TOP_K, classes)
        if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= classes):
            raise BadInput(f"{TOP_K} is {text[:40]!r}. Send a whole number from 1 to {classes}.")
        return int(text)


def _ranked(logits: Sequence[Logits]) -> Iterator[tuple[Ranks, Scores]]:
    """Several float32 [N_i, C] → for each the classes from the most probable on, and their softmax, in float64."""
    if not logits:
        return iter(())
    rows = np.concatenate(logits)
    with np.errstate(invalid="ignore"):  # in rows that are not finite
        shifted = np.exp(rows.astype(np.float64) - rows.max(axis=1, keepdims=True))
        scores = shifted / shifted.sum(axis=1, keepdims=True)
    best = np.argsort(-rows, axis=1, kind="stable")
    ends = np.cumsum([len(one) for one in logits])[:-1]
    return zip(np.split(best, ends), np.split(np.take_along_axis(scores, best, axis=1), ends), strict=True)


def _wants_npy(accept: str) -> bool:
    """Whether the logits are asked for rather than JSON. Raises BadInput when neither would do."""
    wanted = {part.partition(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if NPY in wanted:
        return True
    if not wanted or wanted & {"*/*", "application/*", JSON}:
        return False
    raise BadInput(f"Accept is {accept[:80]!r}. Ask for {JSON} or {NPY}.")


def _npy(array: Logits) -> bytes:
    stream = BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()
