"""What the tolerances rest on: how far from eager each runtime was seen to be, and whether a row allows more than that.

`python -m export calibrate MODEL --write` measures it. Needs no torch.
"""

import re
import tomllib
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Any

from inference import parity
from inference.base import Frozen
from inference.tools.files import publish_text

FOLDER = Path(__file__).with_name("evidence")

# How many times the worst seen a limit may be, atol and rtol alike. Other processors, batch sizes and weights add up in
# other orders, so what one machine saw is no limit; and at ten times that, what is wrong still shows.
MARGIN = 10


class Seen(Frozen):
    """One artifact beside eager, over every input at every batch size and number of threads."""

    runtime: str
    precision: str
    provider: str
    compared: int
    flips: int
    error_ratio: float | None
    worst: dict[str, float]  # the largest |a - b| by kind of input

    @property
    def largest(self) -> float:
        return max(self.worst.values())


class Evidence(Frozen):
    """One model on one kind of device."""

    model: str
    device: str
    weights: str
    seeds: int
    inputs: int  # of each kind, for each seed
    batch_sizes: tuple[int, ...]
    threads: tuple[int, ...]
    largest_logit: float
    processor: str
    versions: dict[str, str]
    seen: tuple[Seen, ...]

    @property
    def path(self) -> Path:
        return FOLDER / f"{self.model}-{self.device}.json"

    def write(self) -> None:
        publish_text(self.path, self.model_dump_json(indent=1) + "\n")


def read_all() -> list[Evidence]:
    return [Evidence.model_validate_json(path.read_bytes()) for path in sorted(FOLDER.glob("*.json"))]


def rounded_up(worst: float) -> float:
    """To two digits, so that it covers what was seen."""
    return float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(worst)))


def worst_of(row: dict[str, Any], evidence: list[Evidence]) -> float | None:
    """The largest difference seen of what a row of `tolerances.toml` is about; None where there is no evidence."""
    found = [
        seen.largest
        for one in evidence
        for seen in one.seen
        if parity.row_of(one.model, seen.runtime, seen.precision, one.device) == row
    ]
    return rounded_up(max(found)) if found else None


def write_worst(evidence: list[Evidence]) -> None:
    """Puts the worst seen into each row of `tolerances.toml` that there is evidence for; limits are for people."""
    text = parity.TABLE.read_text()
    written, *parts = re.split(r"^(?=\[\[tolerance\]\]$)", text, flags=re.MULTILINE)
    for part, row in zip(parts, tomllib.loads(text)["tolerance"], strict=True):
        worst = worst_of(row, evidence)
        plain = "" if worst is None else f"worst = {worst:.2g}".replace("e-0", "e-")  # 1.4e-6, as people write it
        # The first `worst` of a part is its row's own; what follows the row may be other tables.
        written += re.sub(r"^worst = .*$", plain, part, count=1, flags=re.MULTILINE) if plain else part
    publish_text(parity.TABLE, written)


def complaints() -> list[str]:
    """A sentence for each row of `tolerances.toml` that says another worst than the evidence, or allows too much."""
    table, evidence, found = tomllib.loads(parity.TABLE.read_text()), read_all(), []
    for row in table["tolerance"]:
        name = f"{row['runtime']} in {row['precision']} on {row['device']} about {row.get('model', 'all models')}"
        worst = worst_of(row, evidence)
        if worst is not None and row["worst"] != worst:
            found.append(f"{name}: worst is {row['worst']:g}, and the evidence says {worst:g}.")
        else:
            found += _too_loose(name, row, atol="worst", rtol="worst")
    for row in table["decoding"]:
        name = f"{row['decoder']} about {row['model']}"
        found += _too_loose(name, row, atol="worst", pixels="worst_pixels", enlarged="worst_enlarged")
    return found


def _too_loose(name: str, row: dict[str, Any], **limits: str) -> list[str]:
    """A sentence about the first of `limits` that is too far above the worst seen, which the row has by that name."""
    return [
        f"{name}: {limit} is {row[limit]:g}, more than {MARGIN} times the worst seen, {row[worst]:g}."
        for limit, worst in limits.items()
        if row[limit] > MARGIN * row[worst]
    ][:1]
