"""What the server sent → values that can be trusted, or ServerFailed with a sentence that says why not."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any, TypeVar

import numpy as np
import requests
from pydantic import TypeAdapter, ValidationError

from client.errors import ServerFailed
from client.payloads import Payload
from inference.outputs import Outputs, parse_predictions
from inference.protocol import ATTESTED

T = TypeVar("T")


def attested(headers: Mapping[str, str]) -> dict[str, str]:
    """Of the fields in `ATTESTED`, those that the response carries."""
    return {name: headers[header] for name, header in ATTESTED.items() if header in headers}


def predictions(response: requests.Response, sent: Payload, model: str) -> list[Any]:
    """One prediction for each input that was sent, in order."""
    found = _valid(lambda: parse_predictions(response.content, sent.is_batch), model)
    _check_count(len(found), sent, model)
    return [dataclasses.replace(one, served=attested(response.headers)) for one in found]


def outputs(response: requests.Response, sent: Payload, model: str) -> Outputs:
    """float32 [N, …], every bit as the server sent it."""
    values = read_npy(response.content, model)
    _check_count(len(values), sent, model)
    return values


def parsed(kind: TypeAdapter[T], response: requests.Response, model: str | None) -> T:
    """The JSON of the body as a `kind`, with nothing coerced."""
    return _valid(lambda: kind.validate_json(response.content, strict=True), model)


def _valid(parse: Callable[[], T], model: str | None) -> T:
    try:
        return parse()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise _nonsense(f"{where}: {first['msg']}" if where else first["msg"], model) from None


def read_npy(body: bytes, model: str) -> Outputs:
    stream = BytesIO(body)
    try:
        np.lib.format.read_magic(stream)
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    except (ValueError, EOFError, SyntaxError, TypeError):
        raise _nonsense("it is not a whole npy file", model) from None
    if dtype != np.dtype("<f4") or len(shape) < 2:
        raise _nonsense(f"{dtype} of shape {list(shape)} instead of float32 [N, …]", model)
    if len(body) - stream.tell() != math.prod(shape) * dtype.itemsize:
        raise _nonsense("the npy file is not as long as its header says", model)
    values = np.frombuffer(body, dtype, offset=stream.tell())
    return values.reshape(shape, order="F" if fortran_order else "C").copy()


def _check_count(found: int, sent: Payload, model: str) -> None:
    if found != (sent.count or found):
        raise _nonsense(f"{found} results for {sent.count} inputs", model)


def _nonsense(why: str, model: str | None) -> ServerFailed:
    return ServerFailed(f"The server's answer cannot be used: {why}.", model, status=200)
