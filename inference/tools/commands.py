"""How a command ends: the same for every stage."""

import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from inference.base import OutOfMemory


def run(app: typer.Typer) -> None:
    """Runs a command line app. Ctrl-C becomes exit code 130.

    ValueError (a mistake of the user's), OSError (a full disk, a folder that is read-only) and OutOfMemory (a full GPU)
    become one sentence on stderr and exit code 2.
    """
    try:
        with _ctrl_c():
            app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ValueError, OSError, OutOfMemory) as error:
        sentence = str(error)
        if isinstance(error, OSError) and error.strerror:
            sentence = (f"{error.filename}: " if error.filename else "") + f"{error.strerror}."
        print(f"error: {sentence}", file=sys.stderr)
        raise SystemExit(2) from None


class CannotCheck(ValueError):
    """Nothing was found wrong, for it could not be looked at; the message says what is missing."""


@contextmanager
def no_crash_is_a_difference(*foreseen: type[Exception]) -> Iterator[None]:
    """For commands whose exit code 1 says that something was compared and differs, which is Python's for a crash too.

    All errors become CannotCheck but those that `run` makes sentences of, a command's own end, and `foreseen`.
    """
    try:
        yield
    except (ValueError, OSError, OutOfMemory, typer.Exit):
        raise
    except foreseen:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise CannotCheck(
            f"It broke down at {place.filename}:{place.lineno} ({type(error).__name__}: {error}). "
            "Nothing follows from this about the model."
        ) from error


@contextmanager
def _ctrl_c() -> Iterator[None]:
    """After Ctrl-C, any failure is a KeyboardInterrupt: libraries that one reaches make other errors of it."""
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # it is ignored, as in a background job
        return
    pressed = False

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, press)
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
