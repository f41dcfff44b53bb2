"""`python -m export calibrate`: what it measures, when it is red, and what it keeps."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from export.__main__ import further
from export.calibration import evidence
from export.calibration.evidence import Evidence
from inference import parity
from inference.tools.commands import run
from inference.tools.files import sha256
from tests.workspace import Workspace

FEW = ("--seeds", "2", "--inputs", "5")
RUNTIMES = ("eager", "aoti", "onnx", "torchscript")
COMPARED = 2 * 5 * 4 * 5 * 2  # seeds, inputs of each kind, kinds, batch sizes, numbers of threads


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table of its own to change, and no evidence."""
    shutil.copyfile(parity.TABLE, tmp_path / "tolerances.toml")
    monkeypatch.setattr(parity, "TABLE", tmp_path / "tolerances.toml")
    monkeypatch.setattr(evidence, "FOLDER", tmp_path / "evidence")
    return tmp_path


def calibrate(workspace: Workspace, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> int:
    """In this process, where the table can be another. The exit code."""
    monkeypatch.chdir(workspace.folder)
    monkeypatch.setattr(sys, "argv", ["export", "calibrate", "digits", *FEW, *arguments])
    with pytest.raises(SystemExit) as ended:
        run(further)
    return int(ended.value.code or 0)


def test_every_runtime_is_compared_at_every_size_with_1_and_2_threads_and_nothing_is_kept(exported: Workspace) -> None:
    before = {path: path.read_bytes() for path in [parity.TABLE, *evidence.FOLDER.iterdir()]}
    done = exported.run("export", "calibrate", "digits", *FEW)
    assert (
        "digits on cpu: 40 inputs, 5 each of pictures, noise, black and white, flat for each of 2 seeds" in done.stdout
    )
    for runtime in RUNTIMES:
        assert re.search(rf"^ +{runtime} +float32 +{COMPARED} .* 1e-05 +1e-05 +[\d.]+ +0 *$", done.stdout, re.MULTILINE)
    assert {path: path.read_bytes() for path in before} == before
    assert "evidence" not in {path.name for path in exported.folder.iterdir()}


def test_what_was_measured_is_kept_with_what_it_was_measured_on(
    exported: Workspace, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert calibrate(exported, "--write", monkeypatch=monkeypatch) == 0
    (kept,) = evidence.read_all()
    assert kept.path == copied / "evidence" / "digits-cpu.json"
    assert (kept.model, kept.device, kept.seeds, kept.inputs) == ("digits", "cpu", 2, 5)
    assert kept.weights == sha256(exported.artifacts / "weights.safetensors")
    assert {"torch", "onnxruntime-gpu", "python"} <= kept.versions.keys()
    assert [(seen.runtime, seen.compared, seen.flips) for seen in kept.seen] == [
        (name, COMPARED, 0) for name in RUNTIMES
    ]
    for seen in kept.seen:
        assert 0 < seen.largest == max(seen.worst.values())
        assert parity.tolerance("digits", seen.runtime, "float32", "cpu").worst == evidence.rounded_up(seen.largest)
    assert "Kept in" in capsys.readouterr().out


def test_the_same_seeds_draw_the_same_inputs(
    exported: Workspace, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Evidence] = []
    for _ in range(2):
        calibrate(exported, "--write", monkeypatch=monkeypatch)
        kept.append(Evidence.model_validate_json((copied / "evidence" / "digits-cpu.json").read_bytes()))
    assert kept[0].largest_logit == kept[1].largest_logit
    assert kept[0].seen == kept[1].seen


def test_an_answer_beyond_its_limit_ends_with_1_and_nothing_is_kept(
    exported: Workspace, copied: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = parity.TABLE.read_text().replace("tol = 1e-5", "tol = 1e-9")
    parity.TABLE.write_text(text)
    assert calibrate(exported, "--runtime", "onnx", monkeypatch=monkeypatch) == 1
    assert "onnx is beyond its limit: " in capsys.readouterr().out
    assert calibrate(exported, "--write", monkeypatch=monkeypatch) == 1
    assert not (copied / "evidence").exists()
    assert parity.TABLE.read_text() == text


def test_only_the_runtimes_asked_for_are_measured(exported: Workspace) -> None:
    done = exported.run("export", "calibrate", "digits", *FEW, "--runtime", "torchscript")
    assert "torchscript" in done.stdout
    assert "onnx" not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("digits", "--runtime", "onnx", "--write"),
            "The evidence is about every runtime of a model. Leave out --runtime",
        ),
        (("digits", "--runtime", "onnx-int8"), "tolerances.toml has no row for onnx_int8 on cpu that is about digits"),
        (("digits", "--runtime", "tensorrt"), "There is no runtime 'tensorrt'. Choose one of: "),
        (("cats",), "There is no model 'cats'. Choose one of: "),
    ],
)
def test_what_can_not_be_measured_is_said(exported: Workspace, arguments: tuple[str, ...], sentence: str) -> None:
    done = exported.run("export", "calibrate", *arguments, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_an_artifact_that_was_not_exported_is_asked_for(trained: Workspace) -> None:
    done = trained.run("export", "calibrate", "digits", *FEW, "--runtime", "onnx", check=False)
    assert (done.returncode, done.stderr) == (
        2,
        "error: artifacts/digits/model.onnx is missing. Export it: python -m export digits --runtime onnx\n",
    )


def test_an_artifact_of_other_weights_is_not_measured(
    exported: Workspace, two_epochs: Workspace, tmp_path: Path
) -> None:
    changed = exported.copy_to(tmp_path)
    two_epochs.copy_over(changed)
    done = changed.run("export", "calibrate", "digits", *FEW, "--runtime", "onnx", check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "error: artifacts/digits/model.onnx was made from other weights. "
        "Export it: python -m export digits --runtime onnx\n"
    )


@pytest.mark.parametrize(("runtime", "file"), [("torchscript", "model.pt"), ("onnx", "model.onnx")])
def test_a_damaged_artifact_is_a_sentence_and_no_difference(
    exported: Workspace, tmp_path: Path, runtime: str, file: str
) -> None:
    damaged = exported.copy_to(tmp_path)
    path = damaged.artifacts / file
    path.write_bytes(path.read_bytes()[:20_000])
    done = damaged.run("export", "calibrate", "digits", *FEW, "--runtime", runtime, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {file} can't be loaded and run as {runtime} at every batch size: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_crash_of_our_own_is_no_difference(
    exported: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(*_: object) -> parity.Comparison:
        raise RuntimeError("our own")

    monkeypatch.setattr(parity, "compare", crash)
    assert calibrate(exported, "--runtime", "onnx", monkeypatch=monkeypatch) == 2
    assert capsys.readouterr().err.startswith("error: It broke down at ")


def test_the_commands_help_names_the_further_ones(exported: Workspace) -> None:
    assert "Further commands, which have their own --help: " in exported.run("export", "--help").stdout
    assert "calibrate [OPTIONS]" in exported.run("export", "calibrate", "--help").stdout
