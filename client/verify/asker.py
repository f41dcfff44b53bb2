"""One request about goldens, and all that can be checked of its answer alone."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from client.answers import Logits, Prediction, attested, read_npy
from client.client import Client
from client.errors import Rejected, ServerFailed, TokenRejected, UnknownModel
from client.payloads import Input
from client.verify.json_checks import disagreement
from inference import parity
from inference.contract import Contract
from inference.goldens import Goldens
from inference.protocol import ATTESTED, DEFAULT_TOP_K
from inference.runtime import device_kind
from inference.store.manifest import Archive

T = TypeVar("T")

EXACT = parity.Tolerance(0, 0, 0, "the same logits")
DECODERS = "inference/inputs/image/decoders.py"


@dataclass(frozen=True)
class Asked:
    """The goldens of one request, what its answer attests, and what is wrong with it: nothing where `problem` is "".

    `logits` [rows, C] are those of an answer that gave them; one in JSON has been checked already.
    """

    rows: list[int]
    served: dict[str, str]
    logits: Logits | None = None
    problem: str = ""

    @property
    def was_alone(self) -> bool:
        return self.served.get("batch_size") == "1"


class _Wrong(ValueError):
    """An answer that can't be right, whatever the others are."""


class Asker:
    """Asks one served model, which must answer `goldens`, and attest that it is `archive`."""

    def __init__(self, client: Client, model: str, archive: Archive, goldens: Goldens, contract: Contract) -> None:
        self.client, self.model, self.goldens, self.contract = client, model, goldens, contract
        self.batches = archive.batch_size > 1
        self.limit = parity.tolerance(archive.model, archive.runtime, archive.precision, archive.device)
        # by what decodes an input: with nvJPEG, what is no JPEG is decoded on the CPU
        decoders = ["cpu"] if archive.decoder == "cpu" else ["nvjpeg", "cpu"]
        self.slack = {decoder: parity.decoding(archive.model, decoder).atol for decoder in decoders}
        older = DECODERS not in archive.files  # its code attests no decoder
        self.attested = {name: header for name, header in ATTESTED.items() if not (older and name == "decoder")}
        self.expected = {
            "model": model,
            "version": archive.version,
            "runtime": archive.runtime,
            "provider": archive.provider,
            "device": device_kind(archive.device),
            "precision": archive.precision,
            "tf32": "on" if archive.tf32 else "off",
            "artifact": archive.files[archive.artifact].sha256,
            "weights": goldens.weights,
            "contract": goldens.contract,
        }

    def slack_of(self, served: Mapping[str, str]) -> float:
        """How much further from eager than the runtime's own limit an answer may be, for what decoded its input."""
        return self.slack[served.get("decoder", "cpu")]

    def logits(self, row: int) -> Asked:
        return self._logits([row], self.goldens.requests[row])

    def array(self, rows: list[int]) -> Asked:
        """Several goldens as one npy array, answered by logits."""
        return self._logits(rows, self.goldens.pixels[rows])

    def same_logits(self, row: int, logits: Logits) -> Asked:
        """JSON with every label, made from just these logits [1, C]."""
        return self._json([row], self.goldens.requests[row], len(self.contract.labels), logits, exact=True)

    def json(self, row: int, top_k: int | None) -> Asked:
        """JSON with `top_k` labels, made from logits within tolerance of eager's."""
        return self._json([row], self.goldens.requests[row], top_k, self.goldens.logits[[row]])

    def json_array(self, rows: list[int], top_k: int | None) -> Asked:
        return self._json(rows, self.goldens.pixels[rows], top_k, self.goldens.logits[rows])

    def recorded(self, row: int, headers: Mapping[str, str], body: bytes) -> str:
        """What is wrong with an answer by logits that was got without the client; "" where nothing is."""

        def read() -> tuple[Logits, float]:
            served = attested(headers)
            self._check(served)
            logits = read_npy(body, self.model)
            if logits.shape != (1, len(self.contract.labels)):
                raise _Wrong(f"The answer is {list(logits.shape)} instead of one row for each label.")
            return logits, self.slack_of(served)

        found, problem = _tried(read)
        if found is not None:
            problem = parity.compare(found[0], self.goldens[[row]], self.limit, found[1]).sentence
        return f"{self.goldens.names[row]}: {problem}" if problem else ""

    def nonsense(self) -> str:
        """Sends what is no input; what is wrong with the answer unless it is a refusal."""
        try:
            self.client.logits(b"no image", self.model)
        except (TokenRejected, UnknownModel):
            raise
        except Rejected:
            return ""
        except ServerFailed as error:
            return f"A bad request was answered: {error}"
        return "A bad request was taken for a good one."

    def _logits(self, rows: list[int], source: Input) -> Asked:
        def ask() -> tuple[Logits, dict[str, str]]:
            logits, served = self.client.attested_logits(source, self.model)
            if logits.shape[1] != len(self.contract.labels):
                raise _Wrong(f"The answer has {logits.shape[1]} logits for {len(self.contract.labels)} labels.")
            self._check(served)
            return logits, served

        found, problem = _tried(ask)
        return Asked(rows, found[1], found[0]) if found else Asked(rows, {}, problem=problem)

    def _json(self, rows: list[int], source: Input, top_k: int | None, logits: Logits, *, exact: bool = False) -> Asked:
        """JSON that was made from `logits`: from just these where `exact`, else from some within tolerance of them."""

        def ask() -> Asked:
            answers = self.client.predict_batch(source, self.model, top_k)
            served = answers[0].served
            self._check(served)
            near = replace(self.limit, atol=self.limit.atol + self.slack_of(served))
            return Asked(rows, served, problem=self._wrong(answers, top_k, logits, EXACT if exact else near))

        asked, problem = _tried(ask)
        return asked or Asked(rows, {}, problem=problem)

    def _wrong(self, answers: Iterable[Prediction], top_k: int | None, logits: Logits, limit: parity.Tolerance) -> str:
        """What is wrong with the first answer that was not made from `logits` [N, C]; "" where all were."""
        labels = self.contract.labels
        count = top_k or min(DEFAULT_TOP_K, len(labels))
        slack = limit.atol + limit.rtol * np.abs(logits.astype(np.float64))  # [N, C]
        found = (disagreement(*one, labels, count) for one in zip(answers, logits, slack, strict=True))
        return next(filter(None, found), "")

    def _check(self, served: dict[str, str]) -> None:
        """Raises _Wrong. Which one of its devices a server has taken is its own affair; the kind of them is not."""
        if absent := [header for name, header in self.attested.items() if name not in served]:
            raise _Wrong(f"The answer attests no {', '.join(absent)}.")
        if served.get("decoder", "cpu") not in self.slack:
            raise _Wrong(f"The answer attests decoder {served['decoder']!r}, and can be by {' or '.join(self.slack)}.")
        for name, value in self.expected.items():
            if (device_kind(served[name]) if name == "device" else served[name]) != value:
                raise _Wrong(f"The answer attests {name} {served[name]!r} instead of {value!r}.")


def _tried(ask: Callable[[], T]) -> tuple[T | None, str]:
    """What was found, or what was wrong. A token or a name that is refused says nothing about any answer."""
    try:
        return ask(), ""
    except (TokenRejected, UnknownModel):
        raise
    except (Rejected, ServerFailed, _Wrong) as error:
        return None, str(error)
