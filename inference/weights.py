"""`weights.safetensors`: a network's weights with the contract that they were trained for."""

from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from inference.contract import Contract
from inference.runtime import Network
from inference.tools.files import publish

AGAIN = "Train again to replace it."


def write(path: Path, network: nn.Module, contract: Contract) -> None:
    """Publishes the weights; the contract's JSON is in the file's metadata."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with publish(path) as draft:
        draft.write_bytes(save(tensors, metadata={"contract": contract.to_json()}))


def read(path: Path, network: Network) -> tuple[nn.Module, Contract]:
    """The trained network (float32, on the CPU, in eval mode) and its contract. Raises ValueError."""
    if not path.is_file():
        raise ValueError(f"{path} is missing. Train first: python -m training {path.parent.name}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.offset_keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}). {AGAIN}") from None
    try:
        contract = Contract.model_validate_json(metadata["contract"])
    except (KeyError, ValidationError):
        raise ValueError(f"{path} holds no contract of this version. {AGAIN}") from None
    made: nn.Module = network(contract)
    try:
        made.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the network of {contract.model}. {AGAIN}") from error
    return made.float().eval(), contract
