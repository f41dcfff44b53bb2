"""`python -m training digits`, when it can't go on: Ctrl-C, a folder that can't be written."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image

from inference.contract import Contract
from tests.workspace import ROOT

PUBLISHED = ("contract.json", "confusion.png", "misclassified.png", "samples", "weights.safetensors", "metrics.json")
RECIPE = ("digits", "--batch-size", "64", "--epochs")


def start(output: Path, epochs: int) -> subprocess.Popen[str]:
    """`python -m training` in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "training", *RECIPE, str(epochs), "--output", output],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def interrupt_once_there_is(path: Path, training: subprocess.Popen[str]) -> str:
    """Presses Ctrl-C; what the training then says on stderr. It must leave no process behind."""
    try:
        while not path.exists():
            assert training.poll() is None
            time.sleep(0.002)
        os.killpg(training.pid, signal.SIGINT)
        said = training.communicate(timeout=60)[1]
        with pytest.raises(ProcessLookupError):
            os.killpg(training.pid, 0)
        return said
    finally:
        with suppress(ProcessLookupError):
            os.killpg(training.pid, signal.SIGKILL)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_ctrl_c_during_an_epoch_is_exit_code_130_and_the_training_can_be_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    training = start(tmp_path, epochs=1_000)
    said = interrupt_once_there_is(folder / "checkpoint.pt", training)
    assert (training.returncode, said) == (130, "")
    assert names(folder) == {"checkpoint.pt", "tensorboard"}
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["state"]["epoch"] >= 1


@pytest.mark.parametrize("stage", range(2), ids=PUBLISHED[:2])
def test_ctrl_c_while_publishing_is_exit_code_130_and_leaves_whole_files_only(stage: int, tmp_path: Path) -> None:
    folder = tmp_path / "digits"
    training = start(tmp_path, epochs=1)
    said = interrupt_once_there_is(folder / PUBLISHED[stage], training)
    assert (training.returncode, said) == (130, "")
    found = names(folder) - {"checkpoint.pt", "tensorboard"}
    assert found in [set(PUBLISHED[:count]) for count in range(stage + 1, len(PUBLISHED))]
    Contract.read(folder / "contract.json")
    for picture in folder.glob("*.png"):
        Image.open(picture).load()


def test_a_folder_that_cannot_be_written_is_one_sentence_and_exit_code_2() -> None:
    training = start(Path("/sys/no"), epochs=1)
    _, said = training.communicate(timeout=60)
    assert training.returncode == 2
    assert re.fullmatch(r"error: /sys/no\S*: .+\.\n", said)
