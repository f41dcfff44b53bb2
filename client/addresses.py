"""Where a server answers: as the environment says, or on this machine where `python -m serve up` puts it."""

import os
from urllib.parse import urlsplit

from inference.tools.torchserve import PORT

URL_VARIABLE = "ENTERING_URL"
MANAGEMENT_URL_VARIABLE = "ENTERING_MANAGEMENT_URL"
PORT_VARIABLE = "ENTERING_PORT"


def inference(given: str | None) -> str:
    """The address for predictions, without a slash at its end. Raises ValueError when it is no server's."""
    return _address(given, URL_VARIABLE, 0)


def management(given: str | None) -> str:
    return _address(given, MANAGEMENT_URL_VARIABLE, 1)


def _address(given: str | None, variable: str, offset: int) -> str:
    url = given if given is not None else os.environ.get(variable) or None
    if url is None:
        port = os.environ.get(PORT_VARIABLE) or str(PORT)
        if not port.isdecimal() or not 1 <= int(port) <= 65534:
            sentence = f"{PORT_VARIABLE} is {port!r}. Set it to the port that the server answers at, such as {PORT}."
            raise ValueError(sentence)
        return f"http://127.0.0.1:{int(port) + offset}"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        is_address = False
    if not is_address:
        raise ValueError(f"{url!r} is not the address of a server. Give one such as http://127.0.0.1:{PORT}.")
    return url.rstrip("/")
