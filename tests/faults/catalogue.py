"""A fault: what goes wrong, where it is put in, the hop that `verify` has to name, and how it happens in real life."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from tests.faults.scene import Scene

Inject = Callable[[Scene], None]


@dataclass(frozen=True)
class Fault:
    """`says` is a part of the sentence by which `verify` tells it. `served` is the model that is verified.

    `missing` tells which hardware the fault can't do without and is not there.
    """

    group: str
    inject: Inject
    where: str
    hop: str
    says: str
    life: str
    served: str
    missing: Callable[[], str]

    @property
    def name(self) -> str:
        return self.inject.__name__.replace("_", " ")

    @property
    def model(self) -> str:
        return self.served.partition("-")[0]


FAULTS: list[Fault] = []


def fault(
    group: str,
    *,
    where: str,
    hop: str,
    says: str,
    life: str,
    served: str = "digits-onnx",
    missing: Callable[[], str] = lambda: "",
) -> Callable[[Inject], Inject]:
    """Enters a function, which puts the fault of its name into a scene, into the catalogue."""

    def enter(inject: Inject) -> Inject:
        FAULTS.append(Fault(group, inject, where, hop, says, life, served, missing))
        return inject

    return enter


def no_gpu() -> str:
    return "" if torch.cuda.is_available() else "torch finds no CUDA device here."
