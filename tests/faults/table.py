"""All faults, as the table of docs/faults.md: `python -m tests.faults.table` writes it."""

from pathlib import Path

from tests.faults import artifacts, inputs, service, versions, wire
from tests.faults.catalogue import FAULTS

__all__ = ["FAULTS", "FILES", "PAGE", "page"]

FILES = (inputs, artifacts, service, versions, wire)
PAGE = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN, END = "<!-- faults: begin -->\n", "<!-- faults: end -->\n"


def page() -> str:
    """The docs page, its table made anew."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    return before + BEGIN + _table() + END + rest.partition(END)[2]


def _table() -> str:
    lines = ["| | fault | put into | found at | how it happens |", "| --- | --- | --- | --- | --- |"]
    order = list(dict.fromkeys(one.group for one in FAULTS))
    for one in sorted(FAULTS, key=lambda one: order.index(one.group)):
        served = "" if one.served == "digits-onnx" else f" ({one.served})"
        lines.append(f"| {one.group} | {one.name}{served} | {one.where} | `{one.hop}` | {one.life} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
