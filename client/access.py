"""Where a server answers, and the tokens that it wants, which are kept out of every repr, message and log."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from inference.tools.torchserve import KEY_FILE, PORT

Use = Literal["inference", "management"]

ADDRESSES: dict[Use, str] = {"inference": "ENTERING_URL", "management": "ENTERING_MANAGEMENT_URL"}
PORT_VARIABLE = "ENTERING_PORT"
TOKENS: dict[Use, str] = {"inference": "ENTERING_TOKEN", "management": "ENTERING_MANAGEMENT_TOKEN"}
KEY_FILE_VARIABLE = "ENTERING_KEY_FILE"
LOCAL_KEY_FILE = Path(".serve", KEY_FILE)

READ_KEY = 'import json, sys; print(json.load(open(sys.argv[1]))["{use}"]["key"])'


def is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def address(use: Use, given: str | None) -> str:
    """As given, as the environment says, or on this machine where `python -m serve up` puts it; no slash at its end.

    Raises ValueError when it is no server's.
    """
    url = given if given is not None else os.environ.get(ADDRESSES[use]) or None
    if url is None:
        port = os.environ.get(PORT_VARIABLE) or str(PORT)
        if not port.isdecimal() or not 1 <= int(port) <= 65534:
            sentence = f"{PORT_VARIABLE} is {port!r}. Set it to the port that the server answers at, such as {PORT}."
            raise ValueError(sentence)
        return f"http://127.0.0.1:{int(port) + (use == 'management')}"
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as a port that is no number
        is_address = False
    if not is_address:
        raise ValueError(f"{url!r} is not the address of a server. Give one such as http://127.0.0.1:{PORT}.")
    return url.rstrip("/")


class Bearer(AuthBase):
    """Puts the token on one request. As an `auth`, it also keeps ~/.netrc from replacing the header."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class TokenSource:
    """The token for one use of one server: given, or from the environment, or from the server's key file.

    The key file is the one that `ENTERING_KEY_FILE` names. For a server on this machine, and for no other, it is else
    `.serve/key_file.json` in the working directory, which a local server writes at every start.
    """

    def __init__(self, use: Use, url: str, token: str | None = None) -> None:
        self._use = use
        self._fixed = _checked(token or os.environ.get(TOKENS[use]))
        named = os.environ.get(KEY_FILE_VARIABLE)
        self._key_file = Path(named) if named else LOCAL_KEY_FILE if is_local(url) else None
        self._cached: str | None = None

    def current(self) -> str | None:
        if self._fixed:
            return self._fixed
        if self._cached is None:
            self._cached = self._read()
        return self._cached

    def renewed(self, rejected: str | None) -> str | None:
        """Another token than the rejected one, if the key file holds one by now."""
        if self._fixed:
            return None
        self._cached = self._read()
        return self._cached if self._cached != rejected else None

    def in_shell(self) -> str:
        """What a shell expands to the token, for use inside double quotes; the token itself does not appear."""
        if self._fixed or self._key_file is None:
            return f"${TOKENS[self._use]}"
        return f"$(python3 -c {shlex.quote(READ_KEY.format(use=self._use))} {shlex.quote(str(self._key_file))})"

    def advice(self) -> str:
        return f"Set {TOKENS[self._use]}, or let {KEY_FILE_VARIABLE} name the server's key_file.json."

    def _read(self) -> str | None:
        if self._key_file is None:
            return None
        try:
            keys = json.loads(self._key_file.read_bytes())
            if self._use == "management" and set(keys) & TOKENS.keys() == {"inference"}:
                return None  # a gateway's, which gives no access to management
            return _checked(keys[self._use]["key"])
        except FileNotFoundError:
            return None
        except (OSError, ValueError, LookupError, TypeError):
            raise ValueError(f"{self._key_file} holds no {self._use} key of TorchServe that can be read.") from None


def _checked(token: str | None) -> str | None:
    """Refuses here what an HTTP library would refuse with the token in its message."""
    if token and not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII):
        raise ValueError("The token holds characters that no token has, such as spaces or line breaks.")
    return token or None
