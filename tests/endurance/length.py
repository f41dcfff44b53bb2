"""How long the tests of this folder go on: `ENDURANCE=full`, or short where nothing is asked for."""

import os

VARIABLE = "ENDURANCE"


def length(short: int, full: int) -> int:
    """The number that holds in this run. Raises ValueError for a length that there isn't."""
    asked = os.environ.get(VARIABLE, "short")
    if asked not in ("short", "full"):
        raise ValueError(f"{VARIABLE} is {asked!r}. Set it to full, or to short.")
    return full if asked == "full" else short
