"""What ends with exit code 2, since exit code 1 says that something was compared and differs."""

from contextlib import AbstractContextManager

from client.errors import ClientError
from inference.tools import commands
from inference.tools.commands import CannotCheck

__all__ = ["CannotCheck", "no_crash_is_a_difference"]


def no_crash_is_a_difference() -> AbstractContextManager[None]:
    """A ClientError is among the expected errors: it is a sentence already."""
    return commands.no_crash_is_a_difference(ClientError)
