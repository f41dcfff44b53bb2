"""What TorchServe's management interface says about the models it serves, and what else both of its ends know of it."""

from typing import Annotated, Any

from pydantic import AliasPath, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

PORT = 8080  # for predictions, unless another is asked for; management has the port after it
KEY_FILE = "key_file.json"  # the name that TorchServe gives to the file of its tokens


class Described(BaseModel):
    model_config = ConfigDict(frozen=True, populate_by_name=True)


class Worker(Described):
    status: str
    pid: int = 0
    memory: int = Field(0, validation_alias="memoryUsage")  # bytes


def _object_or_empty(text: Any) -> Any:
    """A model that is not ours may describe itself in any words, or in none."""
    try:
        return _OBJECT.validate_json(text) if isinstance(text, str) else text
    except ValidationError:
        return {}


class ModelVersion(Described):
    """One version of a model. `file` is its archive, and `queued` are the requests that wait for a worker.

    `metadata` is what its handler says of itself, where that was asked for: ours gives its `attestation`, the fields
    that every prediction attests, and its `contract`.
    """

    model: str = Field(validation_alias="modelName")
    version: str = Field(validation_alias="modelVersion")
    file: str = Field("", validation_alias="modelUrl")
    device_type: str = Field("cpu", validation_alias="deviceType")
    min_workers: int = Field(1, validation_alias="minWorkers")
    workers: tuple[Worker, ...] = ()
    queued: int = Field(0, validation_alias=AliasPath("jobQueueStatus", "pendingRequests"))
    metadata: Annotated[dict[str, Any], BeforeValidator(_object_or_empty)] = Field(
        {}, validation_alias="customizedMetadata"
    )

    @property
    def device(self) -> str:
        return "cuda" if self.device_type == "gpu" else "cpu"

    @property
    def ready_workers(self) -> int:
        return sum(worker.status == "READY" for worker in self.workers)

    @property
    def is_ready(self) -> bool:
        return self.ready_workers == len(self.workers) >= max(1, self.min_workers)

    @property
    def not_ready_reason(self) -> str:
        return "" if self.is_ready else "a worker is not READY"

    @property
    def attestation(self) -> dict[str, str]:
        found = self.metadata.get("attestation")
        return {name: str(value) for name, value in found.items()} if isinstance(found, dict) else {}


class Listed(Described):
    """A model, and the archive of its default version."""

    model: str = Field(validation_alias="modelName")
    file: str = Field("", validation_alias="modelUrl")


class Page(Described):
    models: list[Listed]
    next_page: str | None = Field(None, validation_alias="nextPageToken")


_OBJECT = TypeAdapter(dict[str, Any])
VERSIONS = TypeAdapter(Annotated[list[ModelVersion], Field(min_length=1)])
PAGE = TypeAdapter(Page)
