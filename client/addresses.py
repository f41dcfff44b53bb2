"""Where a server answers: as the environment says, or on this machine where `python -m serve up` puts it."""

import os
from urllib.parse import urlsplit

from inference.tools.torchserve import PORT

URL_VARIABLE = "ENTERING_URL"
MANAGEMENT_URL_VARIABLE = "ENTERING_MANAGEMENT_URL"
PORT_VARIABLE = "ENTERING_PORT"


def inference(given: str | None) -> str:
    """The address for predictions, without a slash at its end. Raises ValueError when it is no server's."""
    return _checked(given, URL_VARIABLE, 0)


def management(given: str | None) -> str:
    return _checked(given, MANAGEMENT_URL_VARIABLE, 1)


def _checked(given: str | None, variable: str, offset: int) -> str:
    url = given if given is not None else os.environ.get(variable) or f"http://127.0.0.1:{_port() + offset}"
    if not _is_address(url):
        raise ValueError(f"{url!r} is not the address of a server. Give one such as http://127.0.0.1:{PORT}.")
    return url.rstrip("/")


def _port() -> int:
    text = os.environ.get(PORT_VARIABLE) or str(PORT)
    if not text.isdecimal() or not 1 <= int(text) <= 65534:
        raise ValueError(f"{PORT_VARIABLE} is {text!r}. Set it to the port that the server answers at, such as {PORT}.")
    return int(text)


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        return False
