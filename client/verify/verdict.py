"""What was found about a served model, hop by hop: for people, as JSON, and as JUnit XML for CI systems."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from rich import box
from rich.table import Table

from client.compare.report import verdict_cells
from inference.selfcheck import Hop
from inference.store.manifest import Archive
from inference.tools.files import publish

# Control characters that XML can't hold; a sentence may have a server's own words in it.
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# By the first hop that differs: all before it are the same, so this is where the difference comes in.
LOOK_AT = {
    "decode": "Bytes become other pixels than at export. Look at inference/inputs/ in the archive, and at the "
    "versions of Pillow, simplejpeg and torch.",
    "eager": "The network itself answers otherwise than when the goldens were made. Look at the weights, at "
    "models/ and at torch's settings. If the change was meant: python -m export {model} --new-goldens",
    "runtime": "The archive computes otherwise than the network. Look at its artifact layer by layer, and at the code "
    "in its inference/ where no layer differs: "
    "python -m export bisect {model} --runtime {runtime} --archive {archive}{device}",
    "handler": "The archive's code around the runtime is at fault. Look at inference/predictor.py in it.",
    "http": "What is served, or the way to it, is not what the archive is. Look at python -m serve status, and at what "
    "lies between the client and the server.",
    "http_batched": "An answer depends on the company of its request. Look at how batches are put together and taken "
    "apart, and at the sizes in between.",
    "http_load": "An answer depends on load, or on what was asked before. Look for what outlives a request: caches, "
    "shared buffers, counters, a second worker.",
}


@dataclass(frozen=True)
class Verdict:
    """One served model, hop by hop. `digest` is the SHA-256 of the weights that eager's answers come from."""

    name: str
    archive: Archive
    file: Path
    digest: str
    hops: tuple[Hop, ...]

    @property
    def first_failing_hop(self) -> str | None:
        return next((hop.hop for hop in self.hops if not hop.comparison.ok), None)

    @property
    def ok(self) -> bool:
        return self.first_failing_hop is None

    @property
    def look_at(self) -> str:
        """What to do next; "" where nothing differs."""
        text = LOOK_AT.get(self.first_failing_hop or "", "")
        kind = self.archive.device
        device, runtime = "" if kind == "cpu" else f" --device {kind}", self.archive.runtime.replace("_", "-")
        return text.format(model=self.archive.model, runtime=runtime, archive=self.file, device=device)

    def as_json(self) -> dict[str, Any]:
        return {
            "model": self.name,
            "runtime": self.archive.runtime,
            "digest": self.digest,
            "ok": self.ok,
            "first_failing_hop": self.first_failing_hop,
            "look_at": self.look_at,
            "hops": [{"hop": hop.hop, **asdict(hop.comparison)} for hop in self.hops],
        }

    def table(self) -> Table:
        outcome = "the same as eager" if self.ok else f"differs from eager, first at {self.first_failing_hop}"
        limit = self.hops[-1].comparison
        caption = f"limit: {limit.atol:g} + {limit.rtol:g} · |eager|"
        columns = ("hop", "compared", "largest difference", "error ratio", "flips", "")
        title = f"{self.name}: {outcome}"
        table = Table(*columns, title=title, caption=caption, title_justify="left", box=box.SIMPLE)
        for hop in self.hops:
            verdict_of_hop = {**vars(hop.comparison), "flips": len(hop.comparison.flips)}
            table.add_row(hop.hop, str(hop.comparison.compared), *verdict_cells(verdict_of_hop))
        return table


def write(path: Path, verdicts: Sequence[Verdict]) -> None:
    report = {"ok": all(verdict.ok for verdict in verdicts), "models": [verdict.as_json() for verdict in verdicts]}
    with publish(path) as draft:
        draft.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n")


def write_junit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """A suite for each model, a test case for each hop; a hop that differs is a failure."""
    suites = ElementTree.Element("testsuites")
    for verdict in verdicts:
        suite = ElementTree.SubElement(suites, "testsuite", name=verdict.name)
        suite.set("tests", str(len(verdict.hops)))
        suite.set("failures", str(sum(not hop.comparison.ok for hop in verdict.hops)))
        for hop in verdict.hops:
            case = ElementTree.SubElement(suite, "testcase", classname=verdict.name, name=hop.hop)
            if not hop.comparison.ok:
                first = hop.hop == verdict.first_failing_hop
                message = NOT_IN_XML.sub("\ufffd", hop.comparison.sentence)
                failure = ElementTree.SubElement(case, "failure", message=message)
                failure.text = verdict.look_at if first else f"An earlier hop differs: {verdict.first_failing_hop}."
    ElementTree.indent(suites)
    with publish(path) as draft:
        ElementTree.ElementTree(suites).write(draft, encoding="unicode", xml_declaration=True)
