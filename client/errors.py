"""Everything that can go wrong between asking and answering, as one tree.

    ClientError
    ├── Unreachable        no connection was made, so nothing was asked
    │   └── TimedOut       too slow to connect, or to answer
    ├── Rejected           4xx: the request is at fault
    │   ├── TokenRejected  … because of its token
    │   └── UnknownModel   … because nothing is served under that name or version
    └── ServerFailed       5xx, an answer that broke off, or one that makes no sense
        └── WorkerDied     … because the worker that computed it was lost

An input that is refused before anything is sent is `inference.base.BadInput`, a ValueError, or the file's OSError.
"""

import json
import time
from email.utils import parsedate_to_datetime

import requests

from inference.protocol import RETRY_AFTER

BUSY = 503  # the queue is full, or the model's workers are away
LOST = 507  # the worker died with the request in hand; TorchServe at times says 500 and such words instead
LOST_WORDS = ("Worker died.", "Worker scaled down.")  # said alike where it ends a worker in the middle of a batch


class ClientError(Exception):
    """`words` are the server's own where it said any; `status` is None where no HTTP status arrived.

    `retry_after` is how many seconds the server wants to be left alone; 0 where it does not say.
    """

    def __init__(
        self, words: str, model: str | None = None, status: int | None = None, retry_after: float = 0.0
    ) -> None:
        super().__init__(words, model, status, retry_after)
        self.words, self.model, self.status, self.retry_after = words, model, status, retry_after

    def __str__(self) -> str:
        about = f"{self.model}: " if self.model else ""
        return f"{about}{self.words}" + (f" (HTTP {self.status})" if self.status else "")


class Unreachable(ClientError): ...


class TimedOut(Unreachable): ...


class Rejected(ClientError): ...


class TokenRejected(Rejected): ...


class UnknownModel(Rejected): ...


class ServerFailed(ClientError): ...


class WorkerDied(ServerFailed): ...


def from_response(response: requests.Response, model: str | None) -> ClientError:
    status = response.status_code
    try:
        body = json.loads(response.content)
        kind, words = str(body["type"]), str(body["message"])
    except (ValueError, LookupError, TypeError):
        kind, words = "", response.text.strip()[:200] or response.reason or "no reason given"
    error: type[ClientError] = Rejected if 400 <= status < 500 else ServerFailed
    if kind == "InvalidKeyException" or status in (401, 403):  # TorchServe's status for it is 400
        error = TokenRejected
    elif status == 404:
        error = UnknownModel
    elif status == LOST or (status == 500 and words in LOST_WORDS):
        error = WorkerDied
    return error(words, model, status, seconds_of(response.headers.get(RETRY_AFTER, "")))


def seconds_of(retry_after: str) -> float:
    """The header holds a number of seconds or a date; 0 for a date that has passed, or anything else."""
    if retry_after.isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
