"""`python -m training digits`: train a model and publish its weights, contract and metrics."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from training.commands import run
from training.loop import pick_device, train
from training.models import Data, Recipe, model_module
from training.report import device_name, publish_all
from training.state import Job

app = typer.Typer(add_completion=False)


@app.command()
def command(
    model: Annotated[str, typer.Argument(help="The model to train, a file of training/models.")],
    data: Annotated[str | None, typer.Option(help="Data source; by default the model's first.")] = None,
    data_dir: Annotated[Path, typer.Option(help="Folder for downloaded data.")] = Path("data"),
    epochs: Annotated[int | None, typer.Option(help="Passes over the data; by default the recipe's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Inputs in a step; by default the recipe's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak; by default the recipe's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights on the CPU.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on after the last finished epoch.")] = False,
    output: Annotated[Path, typer.Option(help="Folder that gets a folder for the model.")] = Path("artifacts"),
) -> None:
    """Trains a model and publishes weights, contract, metrics and pictures in OUTPUT/MODEL."""
    module, chosen = model_module(model), pick_device(device)
    splits = module.data(data or next(iter(module.RECIPES)), data_dir)
    recipe = override(module.RECIPES[splits.source], epochs=epochs, batch_size=batch_size, learning_rate=learning_rate)
    job = Job(module, splits, recipe, seed, chosen)
    console = Console(soft_wrap=True)
    console.print(f"{model} on {device_name(chosen)}: {sizes(splits)}; epochs {recipe.epochs}, seed {seed}.")
    metrics = publish_all(output / model, job, train(job, output / model, resume))
    console.print(summary(metrics, output / model))


def override(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with the options that were given."""
    return replace(recipe, **{name: value for name, value in options.items() if value is not None})


def sizes(data: Data) -> str:
    counts = (f"{len(split):,} {name.replace('_', ' ')}" for name, split in data.splits.items())
    return f"{data.source} data, {', '.join(counts)}"


def summary(metrics: dict[str, Any], folder: Path) -> str:
    return (
        f"Held-out accuracy {metrics['accuracy']:.2%} ({metrics['wrong']} wrong) with the weights of epoch "
        f"{metrics['best_epoch']}, in {metrics['training_seconds']:.0f} s. Published in {folder}/."
    )


if __name__ == "__main__":
    run(app)
