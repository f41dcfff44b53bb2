"""Bytes → answers: decode, predict, encode. Knows no host."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np

from inference import parity
from inference.base import BadInput, OutOfMemory
from inference.goldens import Goldens
from inference.inputs import CPU, Batch, Body, Decoded, Decoder, Input
from inference.messages import NO_MEMORY, Answer, Query, Request, as_json, bad_input, failure, query
from inference.outputs import Outputs
from inference.protocol import ATTESTED, NPY
from inference.runtime import Loaded, joined
from inference.tools.npy import encode_npy


class Predictor:
    """A model ready to answer. `attestation` says what computes the answers, field by field of `protocol.ATTESTED`."""

    def __init__(self, loaded: Loaded, attestation: Mapping[str, str], decoder: Decoder | None) -> None:
        self.loaded = loaded
        self.contract = loaded.contract
        self.attestation = attestation
        self.decoder = decoder

    def check(self, goldens: Goldens) -> None:
        """RuntimeError unless goldens are answered as by eager, and some by the archive's decoder; or OutOfMemory."""
        if goldens.weights != self.loaded.weights:
            raise RuntimeError(
                "The goldens were answered by other weights than this artifact's. Export with new goldens."
            )
        requests = [Request(body, {"accept": NPY}) for body in goldens.requests]
        parts = parity.batches(self.contract.max_batch, len(goldens))
        answers = [answer for part in parts for answer in self.answer(requests[part])]
        if len(answers) != len(requests):
            raise RuntimeError(f"{len(requests)} goldens got {len(answers)} answers.")
        refused = next((answer for answer in answers if answer.status != 200), None)
        if refused is NO_MEMORY:
            raise OutOfMemory(NO_MEMORY.body.decode())
        if refused:
            raise RuntimeError(f"A golden was refused: {refused.body.decode()}")
        decoders, wanted = [answer.headers[ATTESTED["decoder"]] for answer in answers], self.attestation["decoder"]
        if wanted != CPU and {*decoders} == {CPU}:
            raise RuntimeError(
                f"The archive asks for the decoder {wanted}, and it decoded no golden. Export with --decoder cpu."
            )
        outputs = np.concatenate([np.load(BytesIO(answer.body)) for answer in answers])
        model, loaded = self.contract.model, self.loaded
        limit = parity.tolerance(model, self.attestation["runtime"], loaded.precision, loaded.device)
        verdict = parity.compare(outputs, goldens, limit, parity.slack(model, decoders))
        if not verdict.ok:
            raise RuntimeError(f"The goldens are answered wrongly: {verdict.sentence}")

    def answer(self, requests: Sequence[Request]) -> list[Answer]:
        """One answer for each request, in order. A bad request gets a 400 and doesn't touch its batch-mates.

        All the good ones get a 503 where they are too much at once for the device's memory.
        """
        queries: list[Query | Answer] = []
        for request in requests:
            try:
                queries.append(as_json(200, self.description) if request.describe else query(request, self.contract))
            except BadInput as error:
                queries.append(bad_input(error))
        answers = iter(self._answers([one for one in queries if isinstance(one, Query)]))
        return [next(answers) if isinstance(one, Query) else one for one in queries]

    def _answers(self, queries: Sequence[Query]) -> list[Answer]:
        try:
            decoded = self.decode(queries)
        except OutOfMemory:
            return [NO_MEMORY] * len(queries)
        good = [(one, rows) for one, rows in zip(queries, decoded, strict=True) if isinstance(rows, Decoded)]
        try:
            outputs = self.predict([rows.rows for _, rows in good])
            answers = iter(self._attested(self.encode(outputs, [one for one, _ in good]), [rows for _, rows in good]))
        except OutOfMemory:
            answers = iter([NO_MEMORY] * len(good))
        return [bad_input(rows) if isinstance(rows, BadInput) else next(answers) for rows in decoded]

    def decode(self, queries: Sequence[Query]) -> list[Decoded | BadInput]:
        """Raises OutOfMemory."""
        return decode_all(self.contract.input, self.decoder, [(one.body, one.content_type) for one in queries])

    def predict(self, inputs: Sequence[Batch]) -> list[Outputs]:
        """Several [N_i, *input.shape] → as many float32 [N_i, *output.shape], computed together. Raises OutOfMemory."""
        if not inputs:
            return []
        rows = joined(inputs)
        parts = parity.batches(self.contract.max_batch, len(rows))
        outputs = np.concatenate([self.loaded(rows[part]) for part in parts])
        return np.split(outputs, np.cumsum([len(own) for own in inputs])[:-1])

    def encode(self, outputs: Sequence[Outputs], queries: Sequence[Query]) -> list[Answer]:
        """Several float32 [N_i, *output.shape] → for each an npy file, or the output kind's JSON."""
        output, pairs = self.contract.output, [*zip(outputs, queries, strict=True)]
        of_json = [(rows, one.options) for rows, one in pairs if not one.raw]
        objects = output.answers([rows for rows, _ in of_json], [options for _, options in of_json])

        def as_objects(rows: Outputs, found: list[dict[str, Any]], single: bool) -> Answer:
            if not np.isfinite(rows).all():
                sentence = f"The model gave a value that is not finite. Ask for npy to see the {output.name}."
                return failure(500, "NotFinite", sentence)
            answer = as_json(200, found[0] if single else {"predictions": found})
            return replace(answer, categories=tuple(map(output.category, found)) if output.categories else ())

        return [
            Answer(200, NPY, encode_npy(rows)) if one.raw else as_objects(rows, next(objects), one.single)
            for rows, one in pairs
        ]

    def _attested(self, answers: Sequence[Answer], decoded: Sequence[Decoded]) -> Iterator[Answer]:
        """With the batch that each one's rows ran in: the first of several, as only the last one isn't full."""
        attested = {ATTESTED[name]: value for name, value in self.attestation.items()}
        total, start, largest = sum(len(one.rows) for one in decoded), 0, self.contract.max_batch
        for answer, one in zip(answers, decoded, strict=True):
            size = min(largest, total - start // largest * largest)
            start += len(one.rows)
            own = {ATTESTED["decoder"]: one.decoder, ATTESTED["batch_size"]: str(size)}
            yield replace(answer, headers=attested | own)

    @property
    def description(self) -> dict[str, Any]:
        """What every prediction attests, its own batch and decoder excepted, and the contract."""
        return {"attestation": dict(self.attestation), "contract": self.contract.model_dump(mode="json")}


def decode_all(spec: Input, decoder: Decoder | None, bodies: Sequence[Body]) -> list[Decoded | BadInput]:
    """By a decoder of many at once, where there is one, and what that leaves one by one on the CPU."""

    def one(body: bytes, content_type: str) -> Decoded | BadInput:
        try:
            return Decoded(spec.decode(body, content_type))
        except BadInput as error:
            return error

    found = decoder(bodies) if decoder else [None] * len(bodies)
    return [one(*body) if there is None else there for there, body in zip(found, bodies, strict=True)]
