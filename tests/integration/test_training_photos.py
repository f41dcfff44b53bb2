"""`python -m training photos`: what it publishes, and what it answers to mistakes."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from inference import weights
from inference.tools.commands import run
from models import make_network, photos
from models.data import synthetic
from tests.contracts import decode, labels_of
from training.__main__ import app

TRAINING = ("--arch", "shufflenet_v2_x0_5", "--epochs", "1", "--device", "cpu")


def command(*words: str | Path) -> int | str | None:
    """The exit code of `python -m training …`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["training", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            run(app)
    return exit_.value.code


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One epoch on a small synthetic set, which needs no longer training to be published."""
    root = tmp_path_factory.mktemp("photos")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "COUNTS", {"train": 3, "val": 1, "test": 2})
        assert command("photos", *TRAINING, "--output", root, "--data-dir", root / "data") == 0
    return root


@pytest.fixture(scope="module")
def metrics(workspace: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((workspace / "photos/metrics.json").read_bytes())
    return metrics


def test_the_metrics_say_that_the_pictures_are_synthetic_and_which_network_answered(metrics: dict[str, Any]) -> None:
    assert metrics["data"]["source"] == "synthetic"
    assert metrics["data"]["sizes"] == {"train": 30, "validation": 10, "held_out": 20}
    assert metrics["settings"]["arch"] == "shufflenet_v2_x0_5"
    assert list(metrics["classes"]) == list(synthetic.LABELS)


def test_the_metrics_are_those_of_the_published_weights_on_the_held_out_files(
    workspace: Path, metrics: dict[str, Any]
) -> None:
    network, contract = weights.read(workspace / "photos/weights.safetensors", make_network)
    files = sorted((workspace / "data/photos/synthetic/test").rglob("*.jpg"))
    wanted = torch.tensor([labels_of(contract).index(file.parent.name) for file in files])
    with torch.inference_mode():
        pixels = torch.cat([torch.from_numpy(decode(file.read_bytes(), contract.input)) for file in files])
        answers = network(pixels).argmax(dim=1)
    assert contract.arch == "shufflenet_v2_x0_5"
    assert metrics["wrong"] == (answers != wanted).sum()


def test_samples_are_held_out_files_one_of_each_label(workspace: Path) -> None:
    samples = sorted((workspace / "photos/samples").iterdir())
    assert [path.name for path in samples] == [f"{label}.jpg" for label in synthetic.LABELS]
    for path in samples:
        original = workspace / "data/photos/synthetic/test" / path.stem / "000.jpg"
        assert path.read_bytes() == original.read_bytes()


def test_both_pictures_are_pictures(workspace: Path) -> None:
    for name in ("confusion.png", "misclassified.png"):
        with Image.open(workspace / "photos" / name) as picture:
            assert len(set(picture.convert("L").tobytes())) > 20  # not an empty canvas


def test_an_export_finds_the_held_out_split_by_what_the_metrics_say(workspace: Path, metrics: dict[str, Any]) -> None:
    data = photos.data(metrics["data"]["source"], workspace / "data")
    assert data.fingerprint == metrics["data"]["fingerprint"]


def test_unreadable_files_stop_a_training_and_with_skip_bad_are_counted(
    workspace: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine"
    for label in ("dots", "rings"):
        (folder / label).mkdir(parents=True)
        for path in (workspace / "data/photos/synthetic").rglob(f"{label}/*.jpg"):
            for copy in range(2):
                (folder / label / f"{path.parents[1].name}-{path.stem}-{copy}.jpg").write_bytes(path.read_bytes())
    bad = folder / "dots/train-001-0.jpg"
    bad.write_bytes(b"no picture")
    words = ("photos", *TRAINING, "--data", folder, "--output", tmp_path, "--data-dir", tmp_path / "data")
    assert command(*words) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: 1 of the files can't be read: {bad}: The body is not a PNG, JPEG or WebP image.")
    assert said.endswith("or train without them: --skip-bad\n")
    assert not (tmp_path / "photos").exists()

    assert command(*words, "--skip-bad") == 0
    assert f"{folder} data, 16 train, 2 validation, 5 held out, 1 unreadable and skipped;" in (
        " ".join(capsys.readouterr().out.split())
    )
    metrics = json.loads((tmp_path / "photos/metrics.json").read_bytes())
    assert len(metrics["data"]["unreadable"]) == 1
    assert metrics["data"]["unreadable"][0].startswith(str(bad))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["digits", "--arch", "resnet18"], "The model digits knows no --arch. Train without --arch."),
        (["digits", "--pretrained"], "The model digits knows no --pretrained. Train without --pretrained."),
        (["digits", "--skip-bad"], "The model digits knows no --skip-bad. Train without --skip-bad."),
        (["photos", "--data", "no folder"], "There is no data source 'no folder' for photos. Choose one of: "),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words, "--output", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.*"))
