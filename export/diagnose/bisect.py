"""`python -m export bisect MODEL`: the first layer at which an artifact, as it lies on disk, differs from eager."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from export.diagnose.layers import Layers, compare_layers
from export.diagnose.walks import walk_eager, walk_network, walk_onnx, walk_torchscript
from export.pipeline import THREADS, compare_at_every_size, goldens_of, it_runs, load_to_compare
from export.trained import Trained, load_trained
from inference import parity
from inference.goldens import Goldens
from inference.runtime import Loaded, runtime_module
from inference.store.archive import unpacked
from inference.tools.commands import no_crash_is_a_difference
from inference.torch_graph import prepare

# By the beginning of a runtime's name; a reduced precision is walked as the runtime that it is built on.
WALKS = {"eager": walk_eager, "onnx": walk_onnx, "torchscript": walk_torchscript}


@dataclass(frozen=True)
class Found:
    """`logits` is the verdict on the artifact as it is served, at every batch size; `layers` is about a walk of it."""

    file: str
    loaded: Loaded
    logits: parity.Comparison
    layers: Layers


@no_crash_is_a_difference()
def bisect(
    model: Annotated[str, typer.Argument(help="A model of the zoo, exported.")],
    runtime: Annotated[str, typer.Option(help="The one that differs from eager.")],
    archive: Annotated[
        Path | None, typer.Option(help="Look at the artifact in this .mar, not at the one beside the weights.")
    ] = None,
    device: Annotated[
        Literal["cpu", "cuda"], typer.Option(help="Where the artifact runs; eager is on the CPU.")
    ] = "cpu",
    artifacts: Annotated[Path, typer.Option(help="Where training writes.")] = Path("artifacts"),
) -> None:
    """Walk an artifact layer by layer beside the eager model, and name the first layer that differs.

    Exit code 0: none differs; 1: one does, or the logits do; 2: it could not be looked at.
    """
    prepare(device, THREADS)
    console, name = Console(), runtime.replace("-", "_")
    module = runtime_module(name)
    trained = load_trained(model, artifacts)
    if not (path := trained.path.with_name("goldens.npz")).exists():
        raise ValueError(f"{path} is missing. Export first: python -m export {model}")
    goldens = goldens_of(trained, renew=False)
    with (
        console.status(f"Walking {model} in {name} beside eager"),
        _artifact(trained.path.with_name(module.ARTIFACT), archive) as path,
    ):
        found = _look(path, name, device, trained, goldens)
    layers, columns = found.layers, ("layer", "operation", "shape", "largest difference", "limit", "")
    title = f"{found.file} on {found.loaded.device} beside eager: {len(layers.layers)} of {layers.steps} steps compared"
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE)
    for layer in layers.layers:
        verdict = "[red]differs[/]" if layer.differs else "[green]same[/]"
        figures = [f"{figure:.2g}" for figure in (layer.distance, layer.limit)]
        table.add_row(escape(layer.name), layer.operation, escape(str([*layer.shape])), *figures, verdict)
    console.print(table)
    for sentence in _sentences(found, trained, goldens):
        console.print(escape(sentence), highlight=False, soft_wrap=True)
    if layers.first is not None or not found.logits.ok:
        raise typer.Exit(1)


@contextmanager
def _artifact(beside: Path, archive: Path | None) -> Iterator[Path]:
    """The file to look at. Raises ValueError when it isn't there."""
    if archive is None and not beside.is_file():
        raise ValueError(f"{beside} is missing. Export it first, or give an archive: --archive FILE.mar")
    if archive is not None and not archive.is_file():
        raise ValueError(f"{archive} is missing.")
    with ExitStack() as stack:
        try:
            path = stack.enter_context(unpacked(archive)) / beside.name if archive else beside
        except RuntimeError as error:
            raise ValueError(str(error)) from None
        if not path.is_file():
            raise ValueError(f"{archive} holds no {beside.name}. Give --runtime the runtime that it is of.")
        yield path


def _look(path: Path, runtime: str, device: str, trained: Trained, goldens: Goldens) -> Found:
    """Raises ValueError for an artifact that can't be walked, which says whether its logits differ."""
    loaded, run = load_to_compare(path, runtime, device, THREADS)
    row = parity.tolerance(trained.contract.model, runtime, loaded.precision, loaded.device)
    logits = parity.worst_of([*compare_at_every_size(run, goldens, row)])
    open_walk = WALKS.get(runtime.partition("_")[0])
    if open_walk is None:
        outcome = f"differ from eager's: {logits.sentence}" if logits.sentence else "are eager's within the limit."
        raise ValueError(
            f"{path.name} is compiled code, which has no graph to walk. Bisect torchscript and onnx: what differs "
            "there too is the network's or its export's, and what doesn't is the compiler's. "
            f"The logits of {path.name} {outcome}"
        )
    with it_runs(path, runtime):
        walk = open_walk(path, device, THREADS)
    eager, oracle = walk_network(trained.network), walk_network(copy.deepcopy(trained.network).double())
    layers = compare_layers(eager, oracle, it_runs(path, runtime)(walk), goldens, row)
    return Found(path.name, loaded, logits, layers)


def _sentences(found: Found, trained: Trained, goldens: Goldens) -> Iterator[str]:
    if found.loaded.weights != trained.digest:
        yield f"{found.file} says that it was made from other weights than {trained.path.name}."
    first = found.layers.first
    if first is not None:
        layer = found.layers.layers[first]
        yield (
            f"The first layer that differs is {layer.name} ({layer.operation}, {[*layer.shape]}): {layer.there:.7g} "
            f'instead of {layer.here:.7g} at golden "{goldens.names[layer.golden]}", {[*layer.place]}.'
        )
        if before := found.layers.skipped[first]:
            yield f"Of what may be at fault too, {found.file} has no value to compare: {', '.join(before)}."
        if found.logits.ok:
            yield "The logits are eager's within the limit all the same."
    elif found.logits.ok:
        yield "No layer differs, and the logits are eager's within the limit."
    else:
        yield (
            f"No layer differs, but the logits do: {found.logits.sentence} The fault is behind the graph: in what "
            f"{found.loaded.provider} makes of it when it is loaded, or at a batch size of the logits alone."
        )
