"""`python -m export MODEL`, and further commands by their names: `python -m export bisect MODEL`."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from export.calibration.calibrate import calibrate
from export.diagnose.bisect import bisect
from export.pipeline import Exported, export_runtime, goldens_of
from export.trained import load_trained
from inference.inputs import CPU
from inference.parity import decoding, unmeasured
from inference.runtime import float32_names, runtime_module
from inference.store.archive import archive_name
from inference.tools.commands import run
from inference.torch_graph import check_device

FURTHER: dict[str, Callable[..., None]] = {"bisect": bisect, "calibrate": calibrate}

app = typer.Typer(add_completion=False)
further = typer.Typer(add_completion=False)
for _name, _command in FURTHER.items():
    further.command(_name)(_command)


@app.command(epilog=f"Further commands, which have their own --help: {', '.join(FURTHER)}.")
def export(
    model: Annotated[str, typer.Argument(help="A model of the zoo, trained.")],
    runtime: Annotated[
        list[str] | None, typer.Option(help="Only this one; may be given several times.  [default: all in float32]")
    ] = None,
    new_goldens: Annotated[
        bool, typer.Option("--new-goldens", help="Ask the eager model for new goldens first.")
    ] = False,
    version: Annotated[str, typer.Option(help="The version that the archives are served as.")] = "1.0",
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="The kind of device that serves them.")] = "cpu",
    decoder: Annotated[
        str, typer.Option(help="What decodes images: cpu; on CUDA also nvjpeg, or nvjpeg-or-cpu for what that can't.")
    ] = CPU,
    artifacts: Annotated[Path, typer.Option(help="Where training writes.")] = Path("artifacts"),
    store: Annotated[Path, typer.Option(help="Where archives go.")] = Path("model_store"),
    data_dir: Annotated[Path, typer.Option(help="Where downloaded data lies.")] = Path("data"),
) -> None:
    """Export trained weights to every runtime, verify each against eager, and pack an archive of each."""
    console = Console()
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)*", version):
        raise ValueError(f"Version {version!r} is none. Give numbers with dots between them, such as 1.0 or 2.")
    check_device(device)
    trained = load_trained(model, artifacts, data_dir)
    if reason := trained.contract.input.unsuited(decoder, device):
        raise ValueError(reason)
    decoding(model, decoder.partition("-")[0])  # raises ValueError where it has no row
    names = [name.replace("-", "_") for name in runtime or float32_names()]
    missing = {name: runtime_module(name).missing(device) or unmeasured(model, name, device) for name in names}
    for name, reason in missing.items():
        if reason and runtime:
            raise ValueError(f"Can't export for {name}: {reason}")
        if reason:
            console.print(f"[yellow]Left out: {name}.[/] {reason}", soft_wrap=True)
    chosen = {name: archive_name(model, name) for name, reason in missing.items() if not reason}
    goldens = goldens_of(trained, new_goldens)
    for name in chosen:
        with console.status(f"Exporting {model} to {name}"):
            exported = export_runtime(trained, goldens, name, version, store, device, decoder)
        console.print(_line(exported), highlight=False, soft_wrap=True)
        for other, kept in exported.outdated.items():
            if other not in chosen.values():
                sentence = f"{other} {kept.version} is of older weights; it is kept for rollback."
                console.print(f"[yellow]{sentence}[/]", highlight=False, soft_wrap=True)


def _line(exported: Exported) -> str:
    entry, verdict = exported.entry, exported.verdict
    line = (
        f"{exported.name:20} {entry.export_seconds:5.1f} s {entry.bytes / 1e6:6.2f} MB   "
        f"{verdict.compared} answers compared with eager, largest difference {verdict.max_abs:.2g} "
        f"(limit {verdict.atol:g} + {verdict.rtol:g}·|eager|), {len(verdict.flips)} decided otherwise"
    )
    if entry.accuracy is None:
        return line
    return f"{line}; {entry.accuracy:.2%} of the held-out inputs right, eager {entry.eager_accuracy:.2%}"


if __name__ == "__main__":
    run(further if sys.argv[1:2] and sys.argv[1] in FURTHER else app)
