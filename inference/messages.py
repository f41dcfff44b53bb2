"""Requests and answers as the predictor sees them, whatever the server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from inference.protocol import JSON, RETRY_AFTER


@dataclass(frozen=True)
class Request:
    """One request as it came, header values as they were sent ("" when absent).

    `others` names what came beside the body in a form.
    """

    body: bytes
    others: tuple[str, ...] = ()
    content_type: str = ""
    accept: str = ""
    top_k: str = ""
    describe: bool = False


@dataclass(frozen=True)
class Answer:
    """`labels` are those that the answer calls the most probable, one for each row; none where it holds logits."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """What a request asks, its body not yet decoded. `single` says that the answer is about one image."""

    request: Request
    single: bool
    lossless: bool
    top_k: int


def failure(status: int, kind: str, sentence: str) -> Answer:
    """An error in the form that TorchServe gives its own errors."""
    return as_json(status, {"code": status, "type": kind, "message": sentence})


def as_json(status: int, value: Mapping[str, Any]) -> Answer:
    return Answer(status, JSON, dumps(value))


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)


def dumps(value: Mapping[str, Any]) -> bytes:
    return _ENCODER.encode(value).encode()


NO_MEMORY = replace(
    failure(503, "OutOfMemory", "The GPU has no memory left for this batch. Ask again in a second, or send less."),
    headers={RETRY_AFTER: "1"},
)
