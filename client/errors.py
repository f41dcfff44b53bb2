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

import requests

BUSY = 503  # the queue is full, or the model's workers are away
LOST = 507  # the worker died with the request in hand; TorchServe at times says 500 and such words instead
LOST_WORDS = ("Worker died.", "Worker scaled down.")  # said alike where it ends a worker in the middle of a batch


class ClientError(Exception):
    """`words` are the server's own where it said any; `status` is None where no HTTP status arrived."""

    def __init__(self, words: str, model: str | None = None, status: int | None = None) -> None:
        super().__init__(words, model, status)
        self.words = words
        self.model = model
        self.status = status

    def __str__(self) -> str:
        about = f"{self.model}: " if self.model else ""
        return f"{about}{self.words}" + (f" (HTTP {self.status})" if self.status else "")


class Unreachable(ClientError):
    pass


class TimedOut(Unreachable):
    pass


class Rejected(ClientError):
    pass


class TokenRejected(Rejected):
    pass


class UnknownModel(Rejected):
    pass


class ServerFailed(ClientError):
    pass


class WorkerDied(ServerFailed):
    pass


def from_response(response: requests.Response, model: str | None) -> ClientError:
    """The error that an answer other than 200 stands for."""
    kind, words = _server_words(response)
    status = response.status_code
    if kind == "InvalidKeyException" or status in (401, 403):  # TorchServe's status for it is 400
        return TokenRejected(words, model, status)
    if status == 404:
        return UnknownModel(words, model, status)
    if status == LOST or (status == 500 and words in LOST_WORDS):
        return WorkerDied(words, model, status)
    return (Rejected if 400 <= status < 500 else ServerFailed)(words, model, status)


def _server_words(response: requests.Response) -> tuple[str, str]:
    """The `type` and the `message` of an error's body, or what stands in for a message."""
    try:
        body = json.loads(response.content)
        return str(body["type"]), str(body["message"])
    except (ValueError, LookupError, TypeError):
        return "", response.text.strip()[:200] or response.reason or "no reason given"
