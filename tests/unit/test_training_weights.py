"""`weights.safetensors`: written and read, and refused when it isn't what it should be."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from inference import weights
from models import digits, make_network
from tests.contracts import classifier

CONTRACT = classifier("digits", digits.INPUT, digits.LABELS, (0.3,), (0.4,))


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return digits.network(CONTRACT)


@pytest.fixture
def path(tmp_path: Path, network: nn.Module) -> Path:
    weights.write(tmp_path / "digits/weights.safetensors", network, CONTRACT)
    return tmp_path / "digits/weights.safetensors"


def test_what_was_written_is_read_bit_by_bit(path: Path, network: nn.Module) -> None:
    again, contract = weights.read(path, make_network)
    assert contract == CONTRACT
    assert not again.training
    assert again.state_dict().keys() == network.state_dict().keys()
    for name, tensor in again.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, network.state_dict()[name])


def test_the_same_network_gives_the_same_bytes(path: Path, network: nn.Module) -> None:
    before = path.read_bytes()
    weights.write(path, network, CONTRACT)
    assert path.read_bytes() == before


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is missing\. Train first: python -m training digits"):
        weights.read(tmp_path / "digits/weights.safetensors", make_network)


@pytest.mark.parametrize("left", [0, 7, 100, -1])
def test_a_shortened_file_is_damaged(path: Path, left: int) -> None:
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="is damaged"):
        weights.read(path, make_network)


def test_weights_without_a_contract_are_refused(path: Path) -> None:
    save_file(load_file(path), path)
    with pytest.raises(ValueError, match="holds no contract"):
        weights.read(path, make_network)


def test_a_contract_that_is_none_is_refused(path: Path) -> None:
    save_file(load_file(path), path, metadata={"contract": "{}"})
    with pytest.raises(ValueError, match=r"holds no contract.* Train again"):
        weights.read(path, make_network)


@pytest.mark.parametrize("change", ["missing", "surplus", "reshaped"])
def test_weights_that_do_not_fit_the_network_are_refused(path: Path, change: str) -> None:
    tensors = load_file(path)
    bias = tensors.pop("head.bias")
    if change != "missing":
        tensors |= (
            {"head.bias": bias, "surplus": bias.clone()} if change == "surplus" else {"head.bias": bias[:5].clone()}
        )
    save_file(tensors, path, metadata={"contract": CONTRACT.to_json()})
    with pytest.raises(ValueError, match="does not fit the network of digits"):
        weights.read(path, make_network)


def test_weights_of_an_unknown_model_are_refused(path: Path) -> None:
    contract = CONTRACT.model_copy(update={"model": "cats"})
    save_file(load_file(path), path, metadata={"contract": contract.to_json()})
    with pytest.raises(ValueError, match="no model 'cats'"):
        weights.read(path, make_network)
