"""`python -m client predict`: a file, a folder or standard input, to labels."""

import csv
import json
import re
import sys
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, Progress

from client.client import CONNECTIONS, Client, Outcome
from client.connection import ANSWER_SECONDS, CONNECT_SECONDS
from client.errors import BUSY, ClientError, TimedOut, TokenRejected, UnknownModel, Unreachable
from client.options import Seconds, Url, progress_bar
from client.payloads import Source
from inference import outputs
from inference.base import BadInput
from inference.protocol import BODY_LIMIT
from inference.tools.files import publish

DEFAULT_MODEL = "digits-onnx"
IMAGES = (".png", ".jpg", ".jpeg", ".webp")
STDIN = "-"

Named = list[tuple[str, Source]]
Writer = Callable[[str, Outcome], None]


def predict(
    source: Annotated[str, typer.Argument(metavar="FILE|DIR|-", help="An image, a folder of them, or - for stdin.")],
    model: Annotated[str, typer.Option(help="Which model to ask; name/version for one version.")] = DEFAULT_MODEL,
    top_k: Annotated[int | None, typer.Option(min=1, help="Labels to rank.  [default: the server's]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line, with what served it.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Also write a table here.")] = None,
    curl: Annotated[bool, typer.Option("--curl", help="Print the curl commands; send nothing.")] = False,
    url: Url = None,
    concurrency: Annotated[int, typer.Option(min=1, max=CONNECTIONS, help="Requests in flight at once.")] = 8,
    timeout: Seconds = ANSWER_SECONDS,
) -> None:
    """Label images: one line for each, in order. Those of a batch in one npy file are FILE[0], FILE[1] and so on.

    The exit code is 0 when all were answered, 1 when some were not, and 2 when nothing could be asked.
    """
    with Client(url, timeout=(CONNECT_SECONDS, timeout)) as client, ExitStack() as stack:
        if curl:
            for name in image_files(source):
                print(client.curl(name, model, top_k))
            return
        named: Named = [
            (name, sys.stdin.buffer.read(BODY_LIMIT + 1) if name == STDIN else Path(name))
            for name in image_files(source)
        ]
        writers: list[Writer] = [_print_json if as_json else _print_line]
        if csv_file:
            draft = stack.enter_context(publish(csv_file))  # the file appears when all has been written
            file = stack.enter_context(draft.open("w", newline="", encoding="utf-8"))
            table = csv.DictWriter(file, ["input", *outputs.columns(), "error"], extrasaction="ignore")
            table.writeheader()
            writers.append(lambda name, outcome: table.writerow({"input": name, **_fields(outcome)}))
        outcomes = stack.enter_context(closing(_outcomes(client, named, model, top_k, concurrency)))
        failed = _write(outcomes, len(named), writers)
    if failed:
        print(f"{failed:,} of {len(named):,} failed.", file=sys.stderr)
        raise typer.Exit(1)


def image_files(source: str) -> list[str]:
    """The files that `source` stands for, 9.png before 10.png. ValueError where there are none."""
    path = Path(source)
    if source == STDIN or path.is_file():
        return [source]
    if not path.is_dir():
        raise ValueError(f"{source}: there is no such file or folder.")
    files = [file for file in path.rglob("*") if not file.is_dir()]
    found = [str(file) for file in files if file.suffix.lower() in IMAGES]
    if not found:
        raise ValueError(f"{source}: the folder holds no image ({', '.join(IMAGES)}).")
    if count := len(files) - len(found):
        skipped, were = ("1 file that is", "was") if count == 1 else (f"{count:,} files that are", "were")
        print(f"{skipped} no PNG, JPEG or WebP {were} skipped.", file=sys.stderr)
    parts = {name: re.split(r"(\d+)", name) for name in found}  # text, digits, text, …
    return sorted(found, key=lambda name: ([int(p) if p.isdecimal() else p for p in parts[name]], name))


def _outcomes(
    client: Client, named: Named, model: str, top_k: int | None, concurrency: int
) -> Generator[tuple[str, Outcome]]:
    """A single file may be a batch of several, which one request answers."""
    if len(named) > 1:
        with closing(client.predict_many((one for _, one in named), model, top_k, concurrency)) as outcomes:
            yield from zip((name for name, _ in named), outcomes, strict=True)
        return
    [(name, source)] = named
    try:
        found = client.predict_batch(source, model, top_k)
    except (ClientError, BadInput, OSError) as error:
        found = [error]
    for index, outcome in enumerate(found):
        yield (name if len(found) == 1 else f"{name}[{index}]"), outcome


def _write(outcomes: Iterable[tuple[str, Outcome]], total: int, writers: list[Writer]) -> int:
    """Writes each outcome as it comes; how many were errors.

    Raises the first that the next input would meet too: no server, no such model, no right to ask, no worker to be had.
    """
    failed = 0
    with progress_bar(*Progress.get_default_columns(), MofNCompleteColumn(), hidden=total < 2) as progress:
        task = progress.add_task("Predicting", total=total)
        for name, outcome in outcomes:
            no_use = isinstance(outcome, Unreachable | TokenRejected | UnknownModel)
            if (no_use and not isinstance(outcome, TimedOut)) or getattr(outcome, "status", None) == BUSY:
                raise outcome
            for write in writers:
                write(name, outcome)
            failed += isinstance(outcome, Exception)
            progress.advance(task)
    return failed


def _print_line(name: str, outcome: Outcome) -> None:
    if isinstance(outcome, Exception):
        print(f"{name}: {_fields(outcome)['error']}", file=sys.stderr)
    else:
        print(f"{name}: {outcome}")


def _print_json(name: str, outcome: Outcome) -> None:
    print(json.dumps({"input": name, **_fields(outcome)}))


def _fields(outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, ClientError):
        return {"error": outcome.words, "status": outcome.status}
    if isinstance(outcome, Exception):
        return {"error": str(getattr(outcome, "strerror", None) or outcome), "status": None}
    return asdict(outcome)
