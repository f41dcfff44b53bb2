"""The tokens that the gateway lets in: kept in a file for clients, and valid across restarts."""

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from inference.tools.files import publish

KEY_FILE = "key_file.json"


@dataclass(frozen=True)
class Tokens:
    """`previous` stays valid until the next rotation, so that clients can change to `current` in their own time."""

    current: str
    previous: str | None = None

    @classmethod
    def keep(cls, state: Path) -> "Tokens":
        """Those of the key file in `state`, made when there are none. Raises ValueError for a damaged file."""
        path = state / KEY_FILE
        if not path.exists():
            return cls(_new())._write(path)
        try:
            held = json.loads(path.read_bytes())
            previous = held.get("previous")
            return cls(_checked(held["inference"]["key"]), _checked(previous["key"]) if previous else None)
        except (ValueError, LookupError, AttributeError, TypeError):
            raise ValueError(f"{path} is damaged. Delete it: the next start makes new tokens.") from None

    def rotated(self, state: Path) -> "Tokens":
        """New tokens, written to `state`: the current one becomes the previous one, which is invalid from now on."""
        return Tokens(_new(), self.current)._write(state / KEY_FILE)

    def valid(self) -> list[str]:
        return [token for token in (self.current, self.previous) if token]

    def _write(self, path: Path) -> "Tokens":
        """In the form of TorchServe's own key file, which the client reads."""
        held = {"inference": {"key": self.current}}
        if self.previous:
            held["previous"] = {"key": self.previous}
        with publish(path) as draft:
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(held, indent=2) + "\n")
        return self


def _checked(token: str) -> str:
    """Raises ValueError for what is none of ours."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{20,}", token):
        raise ValueError
    return token


def _new() -> str:
    return secrets.token_urlsafe(32)
