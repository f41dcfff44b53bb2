"""`python -m training digits`: what it publishes, and what it answers to mistakes."""

import json
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torchmetrics.functional.classification import multiclass_f1_score

from inference import weights
from inference.contract import Contract
from inference.tools.commands import run
from inference.tools.files import sha256
from models import Data, digits, make_network
from tests.contracts import decode, labels_of
from tests.workspace import Workspace
from training.__main__ import app

REPO = Path(__file__).parents[2]
WHOLE = {"contract.json", "confusion.png", "misclassified.png", "samples", "weights.safetensors", "metrics.json"}
LIMIT = 100_000  # bytes; less than a checkpoint, more than the first lines of TensorBoard's log

# The command line, killed like by a power cut in the second of its epochs (20 batches each).
KILLED = """
import itertools, os, signal, sys
from tests.workspace import Workspace
from training.__main__ import app
from models import digits

batches, augment = itertools.count(1), digits.augment

def last_breath(images):
    if next(batches) == 30:
        os.kill(os.getpid(), signal.SIGKILL)
    return augment(images)

digits.augment = last_breath
app(sys.argv[1:])
"""


def command(*words: str | Path) -> int | str | None:
    """The exit code of `python -m training …`, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["training", *map(str, words)])
        with pytest.raises(SystemExit) as exit_:
            run(app)
    return exit_.value.code


@pytest.fixture(scope="module")
def published(trained: Workspace) -> Path:
    """The folder of a training with the default recipe."""
    return trained.artifacts


@pytest.fixture(scope="module")
def metrics(published: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((published / "metrics.json").read_bytes())
    return metrics


@pytest.fixture(scope="module")
def data() -> Data:
    return digits.data("bundled", Path())


def test_the_default_recipe_reaches_98_5_percent(metrics: dict[str, Any]) -> None:
    assert metrics["accuracy"] >= 0.985


def test_the_metrics_are_those_of_the_published_weights(published: Path, metrics: dict[str, Any], data: Data) -> None:
    network, contract = weights.read(published / "weights.safetensors", make_network)
    with torch.inference_mode():
        answers = network(torch.from_numpy(data.held_out.inputs)).argmax(dim=1)
    wanted = torch.from_numpy(data.held_out.targets)
    assert metrics["accuracy"] == (answers == wanted).double().mean()
    assert metrics["wrong"] == (answers != wanted).sum()
    f1 = multiclass_f1_score(answers, wanted, len(labels_of(contract)), average=None)
    assert [row["f1"] for row in metrics["classes"].values()] == pytest.approx(f1.tolist())
    assert [row["support"] for row in metrics["classes"].values()] == torch.bincount(wanted).tolist()


def test_precision_and_recall_of_a_digit_are_what_the_words_mean(
    published: Path, metrics: dict[str, Any], data: Data
) -> None:
    network, contract = weights.read(published / "weights.safetensors", make_network)
    answers = network(torch.from_numpy(data.held_out.inputs)).argmax(dim=1).numpy()
    for index, label in enumerate(labels_of(contract)):
        right = ((answers == index) & (data.held_out.targets == index)).sum()
        assert metrics["classes"][label]["precision"] == pytest.approx(right / (answers == index).sum())
        assert metrics["classes"][label]["recall"] == pytest.approx(right / (data.held_out.targets == index).sum())


def test_the_metrics_say_where_the_weights_come_from(published: Path, metrics: dict[str, Any], data: Data) -> None:
    sizes = {"train": 1257, "validation": 180, "held_out": 360}
    assert metrics["data"] == {"source": "bundled", "fingerprint": data.fingerprint, "sizes": sizes}
    assert metrics["weights_sha256"] == sha256(published / "weights.safetensors")
    assert metrics["contract_sha256"] == sha256(published / "contract.json")
    assert (metrics["seed"], metrics["settings"]["epochs"]) == (0, digits.RECIPES["bundled"].epochs)
    assert 1 <= metrics["best_epoch"] <= metrics["settings"]["epochs"]
    assert metrics["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert {"python", "torchvision", "numpy"} <= set(metrics["versions"])
    assert "git_commit" in metrics


def test_the_weights_carry_the_published_contract(published: Path) -> None:
    contract = Contract.read(published / "contract.json")
    assert weights.read(published / "weights.safetensors", make_network)[1] == contract
    assert contract.digest == sha256(published / "contract.json")


def test_metrics_are_published_last_and_no_draft_is_left(published: Path) -> None:
    assert {path.name for path in published.iterdir()} == WHOLE | {"checkpoint.pt", "tensorboard"}
    written = {path: path.stat().st_mtime_ns for path in published.rglob("*.*")}
    assert max(written, key=written.__getitem__) == published / "metrics.json"


def test_both_pictures_are_pictures(published: Path) -> None:
    for name in ("confusion.png", "misclassified.png"):
        with Image.open(published / name) as picture:
            picture.load()
            assert len(set(picture.convert("L").tobytes())) > 20  # not an empty canvas


def test_samples_are_held_out_scans_as_the_network_takes_them(published: Path, data: Data) -> None:
    assert {path.stem for path in (published / "samples").iterdir()} == set(digits.SAMPLE_NAMES)
    for label, name in enumerate(digits.SAMPLE_NAMES):
        image = decode((published / f"samples/{name}.png").read_bytes(), digits.INPUT)
        of_label = data.held_out.inputs[data.held_out.targets == label]
        assert (image == of_label).all(axis=(1, 2, 3)).any()


def test_a_training_killed_in_mid_epoch_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    recipe = ("digits", "--epochs", "3", "--batch-size", "64")
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    process = subprocess.run([sys.executable, "-c", KILLED, *recipe, "--output", killed], cwd=REPO, check=False)
    assert process.returncode == -signal.SIGKILL
    assert {path.name for path in (killed / "digits").iterdir()} == {"checkpoint.pt", "tensorboard"}
    assert torch.load(killed / "digits/checkpoint.pt", weights_only=True)["state"]["epoch"] == 1

    subprocess.run([sys.executable, "-m", "training", *recipe, "--output", killed, "--resume"], cwd=REPO, check=True)
    assert command(*recipe, "--output", undisturbed) == 0
    assert sha256(killed / "digits/weights.safetensors") == sha256(undisturbed / "digits/weights.safetensors")


def test_a_full_disk_is_one_sentence_and_leaves_no_half_file(tmp_path: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-m", "training", "digits", "--epochs", "1", "--output", tmp_path],
        cwd=REPO, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)),
    )  # fmt: skip
    assert process.returncode == 2
    assert process.stderr == "error: File too large.\n"
    assert {path.name for path in (tmp_path / "digits").iterdir()} == {"tensorboard"}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["cats"], "There is no model 'cats'. Choose one of: "),
        (["digits", "--data", "svhn"], "There is no data source 'svhn' for digits. Choose one of: bundled, mnist."),
        (["digits", "--device", "tpu"], "There is no device 'tpu'. Choose one of: auto, cpu, cuda."),
        (["digits", "--epochs", "0"], "--epochs and --batch-size must be at least 1."),
        (["digits", "--resume"], "There is no checkpoint "),
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


@pytest.mark.parametrize("words", [["digits", "--epoch", "3"], ["digits", "--seed", "-1"], []])
def test_an_unknown_option_a_negative_seed_and_no_model_are_refused(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(*words) == 2
    assert "Usage" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    assert command("digits", "--output", tmp_path / "file") == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'file/digits'}: Not a directory.\n"


def test_the_device_and_the_result_are_said_aloud(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("digits", "--device", "cpu", "--epochs", "1", "--seed", "7", "--output", tmp_path) == 0
    said = capsys.readouterr().out
    assert "digits on cpu: bundled data, 1,257 train, 180 validation, 360 held out; epochs 1, seed 7." in said
    accuracy = json.loads((tmp_path / "digits/metrics.json").read_bytes())["accuracy"]
    assert f"Held-out accuracy {accuracy:.2%}" in said
    assert f"Published in {tmp_path / 'digits'}" in said
