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


def nothing() -> str:
    return ""


def fault(
    group: str,
    *,
    where: str,
    hop: str,
    says: str,
    life: str,
    served: str = "digits-onnx",
    missing: Callable[[], str] = nothing,
) -> Callable[[Inject], Inject]:
    """Enters a function, which puts the fault of its name into a scene, into the catalogue."""

    def enter(inject: Inject) -> Inject:
        FAULTS.append(Fault(group, inject, where, hop, says, life, served, missing))
        return inject

    return enter


def no_gpu() -> str:
    return "" if torch.cuda.is_available() else "torch finds no CUDA device here."


def representatives() -> list[Fault]:
    """One of each group and, beyond those, one of each hop: what `make test` puts in.

    Of digits rather than of another model, which would need a server of its own, and without certain hardware where
    the group has such a one.
    """
    chosen: list[Fault] = []
    order = sorted(FAULTS, key=lambda one: (one.missing is not nothing, one.model != "digits"))
    for new in ("group", "hop"):
        for one in order:
            if getattr(one, new) not in {getattr(other, new) for other in chosen}:
                chosen.append(one)
    return chosen
