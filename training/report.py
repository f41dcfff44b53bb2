"""What a training leaves behind: contract, pictures, samples, weights and, last of all, `metrics.json`."""

import json
import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor
from torchmetrics.functional import classification

from inference import weights
from inference.outputs.classes import ClassesOutput
from inference.tools.files import publish, publish_text, sha256
from inference.tools.versions import git_commit, versions
from models import Split
from training.loop import predict
from training.state import Job, State

PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scikit-learn", "safetensors", "torchmetrics")
SHOWN = 24
COUNTED = 30  # labels; of more than these the confusion picture shows colours alone


def publish_all(folder: Path, job: Job, trained: State) -> dict[str, Any]:
    """Returns what `metrics.json` says. Written last, with the weights' digest, it shows that all is of one run."""
    held_out, labels = job.data.held_out, cast(ClassesOutput, job.contract.output).labels
    logits = predict(trained.judged, torch.from_numpy(held_out.inputs), job.device)
    publish_text(folder / "contract.json", job.contract.to_json())
    for name, picture in {"confusion": confusion_picture, "misclassified": misclassified_picture}.items():
        with publish(folder / f"{name}.png") as draft:
            picture(logits, held_out, labels).savefig(draft, dpi=120)
    publish_samples(folder / "samples", held_out, job.model.SAMPLE_NAMES or labels)
    weights.write(folder / "weights.safetensors", trained.judged, job.contract)
    metrics = {
        **scores(logits, held_out, labels),
        **origin(job, trained),
        "weights_sha256": sha256(folder / "weights.safetensors"),
        "contract_sha256": sha256(folder / "contract.json"),
    }
    publish_text(folder / "metrics.json", json.dumps(metrics, indent=2) + "\n")
    return metrics


def scores(logits: Tensor, split: Split, labels: tuple[str, ...]) -> dict[str, Any]:
    """Accuracy over a split, and precision, recall, f1 and support for each label."""
    targets, count = torch.from_numpy(split.targets), len(labels)
    columns = {
        "precision": classification.multiclass_precision(logits, targets, count, average=None).tolist(),
        "recall": classification.multiclass_recall(logits, targets, count, average=None).tolist(),
        "f1": classification.multiclass_f1_score(logits, targets, count, average=None).tolist(),
        "support": torch.bincount(targets, minlength=count).tolist(),
    }
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    wrong = int((logits.argmax(dim=1) != targets).sum())
    accuracy = (len(split) - wrong) / len(split)
    return {"accuracy": accuracy, "wrong": wrong, "classes": dict(zip(labels, rows, strict=True))}


def origin(job: Job, trained: State) -> dict[str, Any]:
    """Where the weights come from: enough to make them again."""
    return {
        "model": job.contract.model,
        "data": {
            "source": job.data.source,
            "fingerprint": job.data.fingerprint,
            "sizes": {name: len(split) for name, split in job.data.splits.items()},
            **({"unreadable": list(job.data.unreadable)} if job.data.unreadable else {}),
        },
        "best_epoch": trained.best.epoch,
        "validation_accuracy": trained.best.accuracy,
        "settings": job.settings,
        "seed": job.seed,
        "device": device_name(job.device),
        "training_seconds": round(trained.seconds, 2),
        "versions": versions(PACKAGES),
        "git_commit": git_commit(),
    }


def device_name(device: torch.device) -> str:
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type


def confusion_picture(logits: Tensor, split: Split, labels: tuple[str, ...]) -> Figure:
    """Counts of true label (rows) against answer (columns)."""
    targets = torch.from_numpy(split.targets)
    counts = classification.multiclass_confusion_matrix(logits, targets, len(labels)).numpy()
    side = max(6, 0.2 * len(labels))
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    rotation, counted = 90 if max(map(len, labels)) > 3 else 0, len(labels) <= COUNTED
    picture = ConfusionMatrixDisplay(counts, display_labels=labels)
    picture.plot(ax=axes, cmap="Blues", colorbar=False, include_values=counted, xticks_rotation=rotation)
    axes.set(xlabel="answer", ylabel="true label", title=f"Held out: {len(split):,} inputs")
    return figure


def misclassified_picture(logits: Tensor, split: Split, labels: tuple[str, ...]) -> Figure:
    """Held-out images with a wrong answer, those first that the network was surest of."""
    scores, answers = (part.numpy() for part in logits.softmax(dim=1).max(dim=1))
    wrong = np.flatnonzero(answers != split.targets)
    worst = wrong[np.argsort(-scores[wrong])][:SHOWN]
    figure = Figure(figsize=(9, 1 + 1.6 * max(1, -(-len(worst) // 6))), layout="constrained")
    figure.suptitle(f"Misclassified: {len(wrong):,} of {len(split):,} (true label → answer, its score)")
    for place, index in enumerate(worst):
        axes = figure.add_subplot(-(-len(worst) // 6), 6, place + 1)
        axes.imshow(split.inputs[index], cmap="gray")
        title = f"{labels[split.targets[index]]} → {labels[answers[index]]}, {scores[index]:.2f}"
        axes.set_title(title, fontsize=8 if max(map(len, labels)) > 3 else 10)
        axes.axis("off")
    return figure


def publish_samples(folder: Path, split: Split, names: tuple[str, ...]) -> None:
    """The first image of each label that the split holds, to predict: its own file, or where it has none a PNG file."""
    for label, name in enumerate(names):
        for row in np.flatnonzero(split.targets == label)[:1]:
            file = split.files[row] if split.files else None
            with publish(folder / f"{name}{file.suffix.lower() if file else '.png'}") as draft:
                if file:
                    shutil.copyfile(file, draft)
                else:
                    image = split.inputs[row]  # [h, w, C], and Pillow's grey is [h, w]
                    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(draft)
