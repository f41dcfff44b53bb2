"""How a command ends: the same for every stage."""

import sys

import typer


def run(app: typer.Typer) -> None:
    """Runs a command line app.

    ValueError (a mistake of the user's) and OSError (a full disk, a folder that is read-only) become one sentence on
    stderr and exit code 2. Ctrl-C becomes exit code 130.
    """
    try:
        app()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (ValueError, OSError) as error:
        print(f"error: {_sentence(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        place = f"{error.filename}: " if error.filename else ""
        return f"{place}{error.strerror}."
    return str(error)
