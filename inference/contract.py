"""The contract: everything about a model that is not its weights, as one frozen value.

Training writes it once, as `contract.json`, and every artifact carries it. Needs no torch, for the client's sake.
"""

import hashlib
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, SerializeAsAny, ValidationError

from inference.base import Frozen, of_kind
from inference.inputs import Input
from inference.outputs import Output

AnyInput = Annotated[SerializeAsAny[Input], BeforeValidator(partial(of_kind, "input"))]
AnyOutput = Annotated[SerializeAsAny[Output], BeforeValidator(partial(of_kind, "output"))]


class Contract(Frozen):
    """What a model takes and gives: the graph takes [B, *input.shape], and gives float32 [B, *output.shape].

    `max_batch` is the largest B that an artifact is compared at, and the largest that is run. `arch` names the network
    where a model can have several.
    """

    model: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    arch: str | None = None
    max_batch: Annotated[int, Field(gt=0)] = 32
    inputs: Annotated[tuple[AnyInput, ...], Field(min_length=1, max_length=1)]
    outputs: Annotated[tuple[AnyOutput, ...], Field(min_length=1, max_length=1)]

    @property
    def input(self) -> Input:
        return self.inputs[0]

    @property
    def output(self) -> Output:
        return self.outputs[0]

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Without the fields that are None, which TorchServe's own JSON leaves out too."""
        return self.model_dump_json(indent=2, exclude_none=True) + "\n"

    @classmethod
    def parse(cls, text: str | bytes, where: Path) -> "Contract":
        """Raises ValueError for what is no contract of this edition."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            reason = f"{where} holds no contract of this edition ({place}: {first['msg']})."
            raise ValueError(f"{reason} Train and export again.") from None

    @classmethod
    def read(cls, path: Path) -> "Contract":
        return cls.parse(path.read_bytes(), path)
