"""What ends with exit code 2, since exit code 1 says that something was compared and differs."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from client.errors import ClientError


class CannotCheck(ValueError):
    """Nothing was found wrong, for it could not be looked at; the message says what is missing."""


@contextmanager
def no_crash_is_a_difference() -> Iterator[None]:
    """Makes CannotCheck of what nobody foresaw: uncaught, it would end Python with exit code 1."""
    try:
        yield
    except (ValueError, OSError, ClientError):
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise CannotCheck(
            f"It broke down at {place.filename}:{place.lineno} ({type(error).__name__}: {error}). "
            "Nothing follows from this about the model."
        ) from error
