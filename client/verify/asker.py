"""One request about goldens, and all that can be checked of its answer alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from client.answers import attested, read_npy
from client.client import Client
from client.errors import Rejected, ServerFailed, TokenRejected, UnknownModel
from client.payloads import Source, rows_payload
from inference import parity
from inference.goldens import Goldens
from inference.inputs import CPU
from inference.outputs import Outputs
from inference.protocol import ATTESTED
from inference.runtime import device_kind
from inference.store.manifest import Archive


@dataclass(frozen=True)
class Asked:
    """The goldens of one request, and its answer."""

    rows: list[int]
    served: dict[str, str]  # what the answer attests
    outputs: Outputs | None = None  # [rows, *shape] of an answer that gave them; one in JSON has been checked already
    problem: str = ""  # what is wrong with the answer; "" where nothing is

    @property
    def was_alone(self) -> bool:
        return self.served.get("batch_size") == "1"


class Asker:
    """Asks one served model, which must answer `goldens`, and attest that it is `archive`."""

    def __init__(self, client: Client, model: str, archive: Archive, goldens: Goldens) -> None:
        self.client, self.model, self.goldens, self.contract = client, model, goldens, goldens.contract
        self.batches = archive.batch_size > 1
        self.limit = parity.tolerance(archive.model, archive.runtime, archive.precision, archive.device)
        # by what decodes an input: what a GPU does not decode is decoded on the CPU
        decoders = dict.fromkeys([archive.decoder.partition("-")[0], CPU])
        self.slack = {decoder: float(parity.decoding(archive.model, decoder)["atol"]) for decoder in decoders}
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
            "contract": goldens.contract.digest,
        }

    def slack_of(self, served: Mapping[str, str]) -> float:
        """How much further from eager than the runtime's own limit an answer may be, for what decoded its input."""
        return self.slack[served.get("decoder", CPU)]

    def outputs(self, row: int) -> Asked:
        return self._outputs([row], partial(self.client.attested_outputs, self.goldens.requests[row], self.model))

    def rows(self, rows: list[int]) -> Asked:
        """Several goldens in one request, answered by outputs."""
        sent = rows_payload(self.contract, self.goldens.inputs[rows])
        return self._outputs(rows, partial(self.client.attested_outputs, sent, self.model))

    def same_outputs(self, row: int, outputs: Outputs) -> Asked:
        """JSON with all there is, made from just these outputs [1, *shape]."""
        return self._json([row], self.goldens.requests[row], -1, outputs, exact=True)

    def json(self, row: int, turn: int) -> Asked:
        """JSON in one of its ways, each in turn, made from outputs within tolerance of eager's."""
        return self._json([row], self.goldens.requests[row], turn, self.goldens.outputs[[row]])

    def json_rows(self, rows: list[int], turn: int) -> Asked:
        sent = rows_payload(self.contract, self.goldens.inputs[rows])
        return self._json(rows, sent, turn, self.goldens.outputs[rows])

    def recorded(self, row: int, headers: Mapping[str, str], body: bytes) -> str:
        """What is wrong with an answer by outputs that was got without the client; "" where nothing is."""
        asked = self._outputs([row], lambda: (read_npy(body, self.model), attested(headers)))
        problem, outputs = asked.problem, asked.outputs
        if outputs is not None and len(outputs) != 1:
            problem = f"The answer has {len(outputs)} rows instead of one."
        elif outputs is not None:
            problem = parity.compare(outputs, self.goldens[[row]], self.limit, self.slack_of(asked.served)).sentence
        return f"{self.goldens.names[row]}: {problem}" if problem else ""

    def nonsense(self) -> str:
        """Sends what is no input; what is wrong with the answer unless it is a refusal."""
        try:
            self.client.logits(b"no input", self.model)
        except (TokenRejected, UnknownModel):
            raise
        except Rejected:
            return ""
        except ServerFailed as error:
            return f"A bad request was answered: {error}"
        return "A bad request was taken for a good one."

    def _outputs(self, rows: list[int], read: Callable[[], tuple[Outputs, dict[str, str]]]) -> Asked:
        """`read` gives outputs, and what their answer attests."""

        def ask() -> Asked:
            outputs, served = read()
            found, expected = list(outputs.shape[1:]), list(self.contract.output.shape)
            if found != expected:
                raise ServerFailed(f"The answer has rows of shape {found} instead of {expected}.")
            self._check(served)
            return Asked(rows, served, outputs)

        return _asked(rows, ask)

    def _json(self, rows: list[int], source: Source, turn: int, outputs: Outputs, *, exact: bool = False) -> Asked:
        """JSON that was made from `outputs`: from just these where `exact`, else from some within tolerance of them."""
        output = self.contract.output
        headers = output.variants[turn % len(output.variants)]

        def ask() -> Asked:
            answers = self.client.predict_with(source, self.model, headers)
            served = answers[0].served
            self._check(served)
            if not all(isinstance(answer, output.prediction) for answer in answers):
                raise ServerFailed("The answer is of another kind than this model's.", self.model, status=200)
            atol, rtol = (0.0, 0.0) if exact else (self.limit.atol + self.slack_of(served), self.limit.rtol)
            slack = atol + rtol * np.abs(outputs.astype(np.float64))  # [N, *shape]
            found = (output.disagreement(*one, headers) for one in zip(answers, outputs, slack, strict=True))
            return Asked(rows, served, problem=next(filter(None, found), ""))

        return _asked(rows, ask)

    def _check(self, served: dict[str, str]) -> None:
        """Raises ServerFailed. Which of its devices a server has taken is its own affair; the kind of them is not."""
        if absent := [header for name, header in ATTESTED.items() if name not in served]:
            raise ServerFailed(f"The answer attests no {', '.join(absent)}.")
        if served["decoder"] not in self.slack:
            possible = " or ".join(self.slack)
            raise ServerFailed(f"The answer attests decoder {served['decoder']!r}, and can be by {possible}.")
        for name, value in self.expected.items():
            if (device_kind(served[name]) if name == "device" else served[name]) != value:
                raise ServerFailed(f"The answer attests {name} {served[name]!r} instead of {value!r}.")


def _asked(rows: list[int], ask: Callable[[], Asked]) -> Asked:
    """What was found, or what was wrong. A token or a name that is refused says nothing about any answer."""
    try:
        return ask()
    except (TokenRejected, UnknownModel):
        raise
    except (Rejected, ServerFailed) as error:
        return Asked(rows, {}, problem=str(error))
