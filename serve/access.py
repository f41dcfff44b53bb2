"""The tokens that the gateway lets in: kept in a file for clients, and valid across restarts."""

import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from inference.tools.files import publish
from inference.tools.torchserve import KEY_FILE


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
            return cls(secrets.token_urlsafe(32))._write(path)
        try:
            held = json.loads(path.read_bytes())
            found = cls(held["inference"]["key"], held["previous"]["key"] if held.get("previous") else None)
            if all(re.fullmatch(r"[A-Za-z0-9_-]{20,}", token) for token in found.valid()):
                return found
        except (ValueError, LookupError, AttributeError, TypeError):
            pass
        raise ValueError(f"{path} is damaged. Delete it: the next start makes new tokens.")

    def rotated(self, state: Path) -> "Tokens":
        """New tokens, written to `state`: the current one becomes the previous one, which is invalid from now on."""
        return Tokens(secrets.token_urlsafe(32), self.current)._write(state / KEY_FILE)

    def valid(self) -> list[str]:
        return [token for token in (self.current, self.previous) if token is not None]

    def _write(self, path: Path) -> "Tokens":
        """In the form of TorchServe's own key file, which the client reads."""
        tokens = {"inference": self.current, "previous": self.previous}
        held = {use: {"key": token} for use, token in tokens.items() if token}
        with publish(path) as draft:
            draft.touch(mode=0o600)
            draft.write_text(json.dumps(held, indent=2) + "\n")
        return self
