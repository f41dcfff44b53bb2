"""The hops over HTTP: each asks a running server for the goldens in its own way, and compares what comes back."""

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from client.answers import Logits, Prediction
from client.client import Client
from client.errors import Rejected, ServerFailed, TokenRejected, UnknownModel
from client.payloads import Input
from export import parity
from export.archive import Hop
from export.goldens import Goldens
from export.manifest import Archive
from serve.protocol import ATTESTED
from training.contract import Contract

CONCURRENCY = 16
BATCHED_REQUESTS = 400
LOAD_REQUESTS = 1000
SCORE_ATOL = 1e-12  # softmax of the same logits, in float64 on both sides
COMMON = ("provider", "precision", "tf32")  # what all answers of a model attest alike


class CannotCheck(ValueError):
    """Nothing was found wrong, for it could not be looked at; the message says what is missing."""


@dataclass(frozen=True)
class Asked:
    """The goldens of one request: logits [rows, C] and attestation, or else what is wrong with the answer."""

    rows: list[int]
    logits: Logits | None
    served: dict[str, str]
    problem: str = ""


class _Wrong(ValueError):
    """An answer that can't be compared, or that attests what it shouldn't."""


class HttpHops:
    """Checks one served model, which must answer `goldens`, and attest that it is `archive`."""

    def __init__(self, client: Client, model: str, archive: Archive, goldens: Goldens, contract: Contract) -> None:
        self.client, self.model, self.archive, self.goldens, self.contract = client, model, archive, goldens, contract
        self.expected = {
            "model": model,
            "version": archive.version,
            "runtime": archive.runtime,
            "artifact": archive.files[archive.artifact].sha256,
            "weights": goldens.weights,
            "contract": goldens.contract,
        }

    def run(self) -> Iterator[Hop]:
        yield Hop("http", self._alone())
        yield Hop("http_batched", self._batched())
        yield Hop("http_load", self._loaded())

    def _alone(self) -> parity.Comparison:
        """One request at a time: as logits, and as JSON, whose scores must be the softmax of just those logits."""
        asked = [self._ask(row) for row in range(len(self.goldens))]
        verdict = self._verdict(asked)
        crowded = [one for one in asked if not one.problem and one.served["batch_size"] != "1"]
        if verdict.ok and crowded:
            return _red(verdict, "A request that was alone was answered as part of a batch.")
        for one in asked if verdict.ok else []:
            assert one.logits is not None
            if wrong := self._wrong_json(one.rows[0], one.logits[0]):
                return _red(verdict, f"{self.goldens.names[one.rows[0]]}: {wrong}")
        return verdict

    def _wrong_json(self, row: int, logits: Logits) -> str:
        try:
            answer = self.client.predict(self.goldens.requests[row], self.model, len(self.contract.labels))
        except (Rejected, ServerFailed) as error:
            return str(error)
        return self._wrong_scores(answer, logits)

    def _wrong_scores(self, answer: Prediction, logits: Logits) -> str:
        """What is wrong with a JSON answer, given the logits [C] that it was made from."""
        wide = np.exp(logits.astype(np.float64) - logits.max())
        order = np.argsort(-logits, kind="stable")
        labels = [self.contract.labels[index] for index in order]
        if [candidate.label for candidate in answer.top] != labels or answer.label != labels[0]:
            return f"The labels are ranked {[candidate.label for candidate in answer.top]}, by the logits {labels}."
        distance = np.abs(np.array([candidate.score for candidate in answer.top]) - (wide / wide.sum())[order]).max()
        if not distance <= SCORE_ATOL or answer.score != answer.top[0].score:
            return f"The scores are not the softmax of the logits: they differ by {distance:.2g}."
        return ""

    def _batched(self) -> parity.Comparison:
        """Every golden among strangers: other goldens, whole arrays, and requests that must be refused."""
        asked = self._concurrently([self._ask_among_strangers] * BATCHED_REQUESTS)
        verdict = self._verdict(asked)
        if verdict.ok and all(one.served["batch_size"] == "1" for one in asked if len(one.rows) == 1):
            raise CannotCheck(f"{self.model}: no two of {BATCHED_REQUESTS} concurrent requests shared a batch.")
        return verdict

    def _ask_among_strangers(self, row: int) -> Asked:
        if row % 5 == 0:
            try:
                self.client.logits(b"no image", self.model)
            except Rejected:
                return self._ask(row)
            except ServerFailed as error:
                return Asked([row], None, {}, f"A bad request was answered: {error}")
            return Asked([row], None, {}, "A bad request was taken for a good one.")
        if row % 5 == 1:
            return self._ask_array(row)
        return self._ask(row)

    def _ask_array(self, row: int) -> Asked:
        """Three goldens in one array."""
        rows = [(row + 1) % len(self.goldens), row, (row + 2) % len(self.goldens)]
        return self._asked(rows, self.goldens.pixels[rows])

    def _loaded(self) -> parity.Comparison:
        return self._verdict(self._concurrently([self._ask] * LOAD_REQUESTS))

    def _concurrently(self, asks: list[Callable[[int], Asked]]) -> list[Asked]:
        """Rows in random order, the same at each run, `CONCURRENCY` in flight at a time."""
        rows = [index % len(self.goldens) for index in range(len(asks))]
        random.Random(0).shuffle(rows)
        with ThreadPoolExecutor(CONCURRENCY) as workers:
            return list(workers.map(lambda ask, row: ask(row), asks, rows))

    def _ask(self, row: int) -> Asked:
        return self._asked([row], self.goldens.requests[row])

    def _asked(self, rows: list[int], source: Input) -> Asked:
        try:
            logits, served = self.client.attested_logits(source, self.model)
            self._check(logits, served)
        except (TokenRejected, UnknownModel):
            raise
        except (Rejected, ServerFailed, _Wrong) as error:
            return Asked(rows, None, {}, str(error))
        return Asked(rows, logits, served)

    def _check(self, logits: Logits, served: dict[str, str]) -> None:
        """Raises _Wrong."""
        if logits.shape[1] != len(self.contract.labels):
            raise _Wrong(f"The answer has {logits.shape[1]} logits for {len(self.contract.labels)} labels.")
        if absent := [header for name, header in ATTESTED.items() if name not in served]:
            raise _Wrong(f"The answer attests no {', '.join(absent)}.")
        for name, value in self.expected.items():
            if served[name] != value:
                raise _Wrong(f"The answer attests {name} {served[name]!r} instead of {value!r}.")

    def _verdict(self, asked: list[Asked]) -> parity.Comparison:
        """All answers against eager's; red too where one failed, or where they don't all attest the same."""
        problems = [f"{self.goldens.names[one.rows[0]]}: {one.problem}" for one in asked if one.problem]
        answered = [one for one in asked if not one.problem]
        if not answered:
            return parity.Comparison(False, 0, None, None, (), 0, 0, f"All {len(asked)} are wrong: {problems[0]}")
        served = answered[0].served
        limit = parity.tolerance(self.archive.runtime, served["precision"], served["device"])
        expected = self.goldens[[row for one in answered for row in one.rows]]
        logits = [one.logits for one in answered if one.logits is not None]
        verdict = parity.compare(np.concatenate(logits), expected, limit)
        found = {name: sorted({one.served[name] for one in answered}) for name in COMMON}
        problems += [f"Answers attest {name} {' and '.join(values)}." for name, values in found.items() if values[1:]]
        return _red(verdict, f"{len(problems)} of {len(asked)}: {problems[0]}") if problems else verdict


def _red(verdict: parity.Comparison, sentence: str) -> parity.Comparison:
    return replace(verdict, ok=False, sentence=verdict.sentence or sentence)
