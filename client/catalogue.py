"""What TorchServe's management interface says about the models it serves."""

from typing import Annotated, Any

import requests
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from client.answers import parsed


class Described(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Worker(Described):
    id: str
    status: str
    pid: int = 0
    memory: int = Field(0, alias="memoryUsage")  # bytes


def _object_or_empty(text: Any) -> Any:
    """A model that is not ours may describe itself in any words, or in none."""
    try:
        return _OBJECT.validate_json(text) if isinstance(text, str) else text
    except ValidationError:
        return {}


class ModelVersion(Described):
    """One version of a model. `metadata` is what its handler says of itself, where that was asked for: ours gives its
    `attestation`, the fields that every prediction attests, and its `contract`."""

    model: str = Field(alias="modelName")
    version: str = Field(alias="modelVersion")
    min_workers: int = Field(1, alias="minWorkers")
    workers: tuple[Worker, ...] = ()
    metadata: Annotated[dict[str, Any], BeforeValidator(_object_or_empty)] = Field({}, alias="customizedMetadata")

    @property
    def ready_workers(self) -> int:
        return sum(worker.status == "READY" for worker in self.workers)

    @property
    def is_ready(self) -> bool:
        return self.ready_workers == len(self.workers) >= max(1, self.min_workers)

    @property
    def attestation(self) -> dict[str, str]:
        found = self.metadata.get("attestation")
        return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


class Listed(Described):
    model: str = Field(alias="modelName")


class Page(Described):
    models: list[Listed]
    next_page: str | None = Field(None, alias="nextPageToken")


_OBJECT = TypeAdapter(dict[str, Any])
_VERSIONS = TypeAdapter(Annotated[list[ModelVersion], Field(min_length=1)])
_PAGE = TypeAdapter(Page)


def versions(response: requests.Response, model: str) -> list[ModelVersion]:
    return parsed(_VERSIONS, response, model)


def page(response: requests.Response) -> Page:
    return parsed(_PAGE, response, None)
