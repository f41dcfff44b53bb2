"""Requests and answers as the predictor sees them, whatever the host."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from inference.base import BadInput
from inference.contract import Contract
from inference.protocol import JSON, NPY, RETRY_AFTER
from inference.tools.npy import is_npy


@dataclass(frozen=True)
class Request:
    """One request as it came. `headers` are its own, their names in lower case.

    `others` names what came beside the body in a form, and `content_type` is then the body's own. `describe` asks what
    the model is, and nothing else.
    """

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    others: tuple[str, ...] = ()
    content_type: str | None = None
    describe: bool = False

    @classmethod
    def of(cls, body: bytes, headers: Mapping[str, str]) -> Self:
        """`headers` by their names in any case."""
        return cls(body, {name.lower(): value for name, value in reversed(list(headers.items()))})  # the first counts


@dataclass(frozen=True)
class Answer:
    """`categories` are what the answer's rows are counted by, one for each row; none where it holds raw outputs."""

    status: int
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Query:
    """What a request asks, its body not yet decoded: about a `single` input, for `raw` outputs or JSON."""

    body: bytes
    content_type: str
    single: bool
    raw: bool
    options: Any  # of the output's kind


def query(request: Request, contract: Contract) -> Query:
    """Raises BadInput."""
    if request.others:
        beside = ", ".join(request.others)[:80]
        raise BadInput(f"Beside the body came {beside}. Send one body, and options as headers.")
    headers = request.headers
    content_type = headers.get("content-type", "") if request.content_type is None else request.content_type
    options = contract.output.options(headers)
    accept = headers.get("accept", "")
    wanted = {part.partition(";")[0].strip().lower() for part in accept.split(",")} - {""}
    if wanted and not wanted & {"*/*", "application/*", JSON, NPY}:
        raise BadInput(f"Accept is {accept[:80]!r}. Ask for {JSON} or {NPY}.")
    return Query(request.body, content_type, not is_npy(content_type), NPY in wanted, options)


def failure(status: int, kind: str, sentence: str) -> Answer:
    """An error in the form that TorchServe gives its own errors."""
    return as_json(status, {"code": status, "type": kind, "message": sentence})


def bad_input(error: BadInput) -> Answer:
    return failure(400, "BadInput", str(error))


def as_json(status: int, value: Mapping[str, Any]) -> Answer:
    return Answer(status, JSON, _ENCODER.encode(value).encode())


_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False)

NO_MEMORY = replace(
    failure(503, "OutOfMemory", "The GPU has no memory left for this batch. Ask again in a second, or send less."),
    headers={RETRY_AFTER: "1"},
)
