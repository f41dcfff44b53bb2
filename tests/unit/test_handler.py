"""A worker whose GPU is lost ends. No GPU can be lost at will, so torch's part and the process's are played here."""

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from serve.torchserve.handler import Handler

DEVICE = "cuda:0"


class Failing:
    """A predictor that breaks down on each batch."""

    def __init__(self, device: str) -> None:
        self.attestation = {"device": device}

    def answer(self, _: list[Any]) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")


def handle(device: str, monkeypatch: pytest.MonkeyPatch, *, lost: bool) -> list[int]:
    """The exit codes that the process was to end with."""
    ended: list[int] = []

    def synchronize(asked: str) -> None:
        assert asked == DEVICE
        if lost:
            raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(os, "_exit", ended.append)
    handler = Handler()
    handler.predictor = Failing(device)  # type: ignore[assignment]
    context: Any = SimpleNamespace(get_all_request_header=lambda _: {})
    with pytest.raises(RuntimeError, match="device-side assert"):
        handler.handle([{"body": b""}], context)
    return ended


def test_a_worker_ends_whose_gpu_gives_nothing_but_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    assert handle(DEVICE, monkeypatch, lost=True) == [1]


@pytest.mark.parametrize("device", [DEVICE, "cpu"])
def test_a_worker_lives_on_after_any_other_failure(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert handle(device, monkeypatch, lost=False) == []
