"""Where the client's tokens come from. They are kept out of every repr, message and log."""

import json
import os
import re
import shlex
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import requests
from requests.auth import AuthBase

from inference.tools.torchserve import KEY_FILE

Use = Literal["inference", "management"]

VARIABLES: dict[Use, str] = {"inference": "ENTERING_TOKEN", "management": "ENTERING_MANAGEMENT_TOKEN"}
KEY_FILE_VARIABLE = "ENTERING_KEY_FILE"
LOCAL_KEY_FILE = Path(".serve", KEY_FILE)

READ_KEY = 'import json, sys; print(json.load(open(sys.argv[1]))["{use}"]["key"])'


def is_local(url: str) -> bool:
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


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
        self._fixed = _checked(token or os.environ.get(VARIABLES[use]))
        named = os.environ.get(KEY_FILE_VARIABLE)
        self._key_file = Path(named) if named else LOCAL_KEY_FILE if is_local(url) else None
        self._cached: str | None = None

    def current(self) -> str | None:
        """The token to try, or None where there is none."""
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
            return f"${VARIABLES[self._use]}"
        return f"$(python3 -c {shlex.quote(READ_KEY.format(use=self._use))} {shlex.quote(str(self._key_file))})"

    def advice(self) -> str:
        return f"Set {VARIABLES[self._use]}, or let {KEY_FILE_VARIABLE} name the server's key_file.json."

    def _read(self) -> str | None:
        if self._key_file is None:
            return None
        try:
            keys = json.loads(self._key_file.read_bytes())
            if self._use == "management" and set(keys) & VARIABLES.keys() == {"inference"}:
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
