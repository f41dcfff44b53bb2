"""A bundle: an unpacked archive, from which a predictor is loaded."""

import importlib.util
import sys
from pathlib import Path
from typing import Any

from inference.base import Frozen
from inference.contract import Contract
from inference.goldens import Goldens
from inference.predictor import Predictor
from inference.runtime import load_artifact, runtime_module
from inference.tools.files import sha256

FILE = "bundle.json"


class Bundle(Frozen):
    """What an archive asks of a host. A worker takes at most `batch_size` requests at once.

    `device` is a kind of device, and `model_file` the place of the model's own file in the archive.
    """

    name: str
    version: str
    runtime: str
    device: str
    decoder: str
    batch_size: int
    model_file: str

    @classmethod
    def read(cls, directory: Path) -> "Bundle":
        return cls.model_validate_json((directory / FILE).read_bytes())

    def load(self, directory: Path, device: str, threads: int, name: str = "", version: str = "") -> Predictor:
        """It attests `name` and `version`, or the bundle's own. Raises as `load_artifact`, and RuntimeError."""
        artifact = directory / runtime_module(self.runtime).ARTIFACT

        def network(contract: Contract) -> Any:
            file = directory / self.model_file
            spec = importlib.util.spec_from_file_location(f"model_{file.stem}", file)
            assert spec
            assert spec.loader
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module  # dataclasses look themselves up there
            spec.loader.exec_module(module)
            return module.network(contract)

        loaded = load_artifact(self.runtime, artifact, device, threads, network)
        if loaded.contract != Contract.read(directory / "contract.json"):
            raise RuntimeError(f"{artifact.name} and contract.json hold different contracts. Export again.")
        attestation = {
            "model": name or self.name,
            "version": version or self.version,
            "weights": loaded.weights,
            "artifact": sha256(artifact),
            "contract": loaded.contract.digest,
            "runtime": self.runtime,
            "provider": loaded.provider,
            "device": loaded.device,
            "precision": loaded.precision,
            "tf32": "on" if loaded.tf32 else "off",
            "decoder": self.decoder,
        }
        return Predictor(loaded, attestation, loaded.contract.input.decoder(self.decoder, device))


def read_goldens(directory: Path) -> Goldens:
    return Goldens.read(directory / "goldens.npz")
