"""Contracts as tests need them, and decoding as the contract says."""

from collections.abc import Sequence

from inference.contract import Contract
from inference.inputs import Input, Rows
from inference.inputs.image import ImageInput
from inference.outputs.classes import ClassesOutput


def classifier(
    model: str,
    spec: ImageInput,
    labels: Sequence[str],
    mean: tuple[float, ...] = (),
    std: tuple[float, ...] = (),
    arch: str | None = None,
    max_batch: int = 32,
) -> Contract:
    """The contract of an image classifier."""
    fields = {**spec.model_dump(), **({"mean": mean, "std": std} if mean else {})}
    outputs = (ClassesOutput(labels=tuple(labels)),)
    return Contract(model=model, arch=arch, inputs=(ImageInput(**fields),), outputs=outputs, max_batch=max_batch)


def decode(body: bytes, spec: Input, content_type: str = "") -> Rows:
    return spec.decode(body, content_type)


def labels_of(contract: Contract) -> tuple[str, ...]:
    """Those of a classifier."""
    assert isinstance(contract.output, ClassesOutput)
    return contract.output.labels
