"""What was sent and what came back, counted by many threads; and which version gave an answer."""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference import parity
from inference.goldens import Goldens
from inference.outputs import Outputs
from inference.outputs.classes import TOP_K, ClassPrediction
from inference.parity import Tolerance
from models.digits import LABELS
from tests.served.asking import close
from tests.served.live import MODEL, Live


@dataclass
class Tally:
    """`lost` holds what befell requests that have no answer, `wrong` what is wrong with answers.

    `refused` holds the sentences of commands that could not be done.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        with self._lock:
            self.counts[what] += 1


@dataclass(frozen=True)
class Right:
    """What each version has to answer to the same requests."""

    goldens: dict[str, Goldens]
    limit: Tolerance

    @classmethod
    def of(cls, live: Live) -> "Right":
        goldens = {version: live.goldens(version) for version in ("1.0", "2.0")}
        assert len({one.requests for one in goldens.values()}) == 1
        return cls(goldens, parity.tolerance("digits", "onnx", "float32", "cpu"))

    @property
    def requests(self) -> tuple[bytes, ...]:
        return self.goldens["1.0"].requests

    def versions_of_logits(self, answer: Outputs, row: int) -> list[str]:
        """Those whose golden the answer equals: float32 [1, C]."""
        return [version for version, known in self.goldens.items() if close(answer, known.outputs[[row]], MODEL)]

    def versions_of_json(self, answer: ClassPrediction, row: int) -> list[str]:
        """Those whose logits the answer, of all labels, may have been made from."""
        return [version for version, known in self.goldens.items() if not self._disagreement(answer, known, row)]

    def _disagreement(self, answer: ClassPrediction, known: Goldens, row: int) -> str:
        logits = known.outputs[row]
        headers = {TOP_K: str(len(LABELS))}
        return known.contract.output.disagreement(answer, logits, self._slack(logits), headers)

    def _slack(self, logits: Outputs) -> NDArray[np.float64]:
        return self.limit.atol + self.limit.rtol * np.abs(logits.astype(np.float64))


def judge(tally: Tally, kind: str, row: int, versions: Iterable[str], attested: str) -> None:
    """An answer is right when it is that of one version alone, which is the one that it attests."""
    found = list(versions)
    tally.count(f"{kind} from {attested}")
    if found != [attested]:
        tally.wrong.append(f"golden {row}, {kind}: attests {attested}, and is what {found or 'nobody'} answers")
