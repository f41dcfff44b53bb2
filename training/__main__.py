"""`python -m training digits`: train a model and publish its weights, contract and metrics.

On several GPUs: `torchrun --nproc-per-node 2 -m training photos …`, with the same options. A batch is that of all
processes together, so the steps and learning rates are one process's; the weights are not. Each process draws its own
augmentation and dropout, a batch that can't be shared evenly counts a few rows twice, and on CPUs each process's batch
norms see its own rows (on GPUs the whole batch, by SyncBatchNorm). On CPUs one process with threads is faster.
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console

from inference.base import out_of_memory
from inference.tools.commands import run
from models import Data, Pretrainable, model_module
from training import parallel
from training.loop import pick_device, train
from training.report import device_name, publish_all
from training.state import Job

NAMED = 5  # unreadable files in an error

app = typer.Typer(add_completion=False)


@app.command()
def command(
    model: Annotated[str, typer.Argument(help="The model to train, a file of models/.")],
    data: Annotated[str | None, typer.Option(help="A data source or a folder; by default the model's first.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Folder for downloaded and decoded data.")] = Path("data"),
    arch: Annotated[str | None, typer.Option(help="The network, where a model has several.")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Begin with published weights.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out files that can't be read.")] = False,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; by default the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Inputs in a step; by default the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak; by default the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights on the CPU.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished epoch.")] = False,
    output: Annotated[Path, typer.Option(help="Folder that gets a folder for the model.")] = Path("artifacts"),
) -> None:
    """Trains a model and publishes weights, contract, metrics and pictures in OUTPUT/MODEL."""
    with parallel.joined(), out_of_memory():
        module, chosen = model_module(model), parallel.own_device(pick_device(device))
        for name, value in {"arch": arch, "pretrained": pretrained, "skip_bad": skip_bad}.items():
            if value and name not in module.OPTIONS:
                option = f"--{name.replace('_', '-')}"
                raise ValueError(f"The model {model} knows no {option}. Train without {option}.")
        with parallel.rank_0_first():
            splits = module.data(data or next(iter(module.RECIPES)), data_dir)
        check_readable(splits, skip_bad)
        recipe = module.RECIPES[splits.source if splits.source in module.RECIPES else "folder"]
        if pretrained:
            recipe = replace(recipe, **cast(Pretrainable, module).FINE_TUNING)
        given: dict[str, Any] = {
            "arch": arch,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
        }
        recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
        job = Job(module, splits, recipe, seed, chosen)
        console = Console(soft_wrap=True, quiet=parallel.rank() > 0)
        on = device_name(chosen) + (f", {parallel.size()} processes" if parallel.size() > 1 else "")
        console.print(f"{model} on {on}: {sizes(splits)}; epochs {recipe.epochs}, seed {seed}.")
        trained = train(job, output / model, resume)
        if parallel.rank() == 0:
            console.print(summary(publish_all(output / model, job, trained), output / model))


def check_readable(data: Data, skip_bad: bool) -> None:
    """Raises ValueError when files could not be read and are not to be skipped."""
    if data.unreadable and not skip_bad:
        more = f"; and {len(data.unreadable) - NAMED} more" if len(data.unreadable) > NAMED else ""
        raise ValueError(
            f"{len(data.unreadable)} of the files can't be read: {'; '.join(data.unreadable[:NAMED])}{more}. Repair or "
            "remove them, or train without them: --skip-bad"
        )


def sizes(data: Data) -> str:
    counts = (f"{len(split):,} {name.replace('_', ' ')}" for name, split in data.splits.items())
    skipped = f", {len(data.unreadable):,} unreadable and skipped" if data.unreadable else ""
    return f"{data.source} data, {', '.join(counts)}{skipped}"


def summary(metrics: dict[str, Any], folder: Path) -> str:
    on = " on synthetic pictures" if metrics["data"]["source"] == "synthetic" else ""
    return (
        f"Held-out accuracy {metrics['accuracy']:.2%}{on} ({metrics['wrong']} wrong) with the weights of epoch "
        f"{metrics['best_epoch']}, in {metrics['training_seconds']:.0f} s. Published in {folder}/."
    )


if __name__ == "__main__":
    run(app)
