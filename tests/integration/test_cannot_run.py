"""An artifact that can't run as it was asked to is at fault; a machine that can't run it is another matter."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from export.trained import load_trained
from inference import bundle, selfcheck
from inference.goldens import Goldens
from inference.runtime import CannotRun
from inference.runtimes import torchscript
from models import make_network
from tests.workspace import ROOT, Workspace
from tests.zips import rewrite


def test_a_trace_that_may_compute_with_tf32_is_not_loaded(exported: Workspace, tmp_path: Path) -> None:
    trained = load_trained("digits", exported.folder / "artifacts")
    path = tmp_path / torchscript.ARTIFACT
    with torchscript.deprecated(), torch.backends.cudnn.flags(enabled=True, allow_tf32=True):
        graph = torch.jit.trace(trained.network, trained.example)  # type: ignore[no-untyped-call]
        torch.jit.save(graph, path, _extra_files=trained.metadata)
    with pytest.raises(CannotRun, match=r"model\.pt were traced with TF32 allowed\. Export it again\."):
        torchscript.load(path, "cpu", 1, make_network)
    torchscript.export(trained, path, "cpu")
    assert torchscript.load(path, "cpu", 1, make_network).contract == trained.contract


def test_onnx_runtime_without_a_gpu_is_no_fault_of_the_artifact(exported: Workspace) -> None:
    program = (
        "from pathlib import Path\n"
        "from inference.runtimes import onnx\n"
        "onnx.open_session(Path('model.onnx'), 'cuda:0', 1)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=exported.artifacts,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.endswith(
        "ValueError: ONNX Runtime was asked for cuda:0 and could only choose CPUExecutionProvider.\n"
    )


def for_cuda(described: bytes) -> bytes:
    return bundle.Bundle.model_validate_json(described).model_copy(update={"device": "cuda"}).model_dump_json().encode()


def test_an_archive_for_a_gpu_does_not_run_where_there_is_none(
    exported: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copy(exported.store / "digits-onnx-1.0.mar", tmp_path))
    rewrite(path, lambda files: {**files, bundle.FILE: for_cuda(files[bundle.FILE])})
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    goldens = Goldens.read(exported.artifacts / "goldens.npz")
    with pytest.raises(
        RuntimeError, match=r"does not run: ValueError: Device cuda:0 was asked for, and torch finds no"
    ):
        selfcheck.inprocess_hops(path, goldens, "onnx", 1)


def test_an_archive_with_another_number_of_goldens_is_an_error_that_says_so(exported: Workspace) -> None:
    goldens = Goldens.read(exported.artifacts / "goldens.npz")
    held, given = len(goldens), len(goldens) - 1
    with pytest.raises(
        RuntimeError, match=rf"^digits-onnx-1\.0\.mar holds other goldens: {held}, not {given}\. Export it"
    ):
        selfcheck.inprocess_hops(exported.store / "digits-onnx-1.0.mar", goldens[1:], "onnx", 1)
