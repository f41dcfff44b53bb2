"""The artifact computes otherwise than the network."""

import copy
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.faults.catalogue import fault, no_gpu
from tests.faults.scene import Scene

CONSTANTS, PRECISION, BAKED, TRAINING, RANGE = "constants", "precision", "baked in", "train mode", "range"
ARTIFACT = "the artifact"
DIFFER = "differ, worst"


def no_short_products() -> str:
    """Why torch computes matrix products in float32 here even where it may use less; "" where it doesn't."""
    batch, weights, before = torch.rand(8, 640), torch.rand(100, 640), torch.get_float32_matmul_precision()
    exact = F.linear(batch, weights)
    try:
        torch.set_float32_matmul_precision("medium")
        distance = (F.linear(batch, weights) - exact).abs().max()
    finally:
        torch.set_float32_matmul_precision(before)
    return "" if distance > 1e-3 else "This processor has no matrix unit for bfloat16 (AMX)."


@fault(
    CONSTANTS,
    where=ARTIFACT,
    hop="runtime",
    says=DIFFER,
    life="0.1307 is typed again for the export, with ImageNet's 0.485 in its place.",
)
def another_mean(scene: Scene) -> None:
    network = copy.deepcopy(scene.trained.network)
    network.get_buffer("mean").fill_(0.485)
    scene.exported("digits-onnx", network)


@fault(
    CONSTANTS,
    where=ARTIFACT,
    hop="runtime",
    says=DIFFER,
    life="Normalize(std, mean): both are triples of numbers between 0 and 1, and no type tells them apart.",
)
def mean_and_std_swapped(scene: Scene) -> None:
    network = copy.deepcopy(scene.trained.network)
    mean, std = network.get_buffer("mean").clone(), network.get_buffer("std").clone()
    network.get_buffer("mean").copy_(std)
    network.get_buffer("std").copy_(mean)
    scene.exported("digits-onnx", network)


def less_is_allowed(original: Any, *given: Any) -> Any:
    import torch

    torch.set_float32_matmul_precision("medium")
    return original(*given)


@fault(
    PRECISION,
    where="the archive's code",
    hop="runtime",
    says=DIFFER,
    served="digits-torchscript",
    life="One process allows TF32 and the other does not. On a CPU the same setting allows bfloat16 in its place.",
    missing=no_short_products,
)
def matrix_products_in_less_than_float32(scene: Scene) -> None:
    scene.replace("digits-torchscript", "inference.torch_graph:prepare", less_is_allowed)


def tf32_is_allowed(original: Any, device: Any) -> Any:
    import torch

    original(device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return True


@fault(
    PRECISION,
    where="the archive's code",
    hop="eager",
    says=DIFFER,
    served="digits-eager",
    life="One process allows TF32, by a setting that another library's import brings along, and the other does not.",
    missing=no_gpu,
)
def tf32_in_one_place(scene: Scene) -> None:
    scene.exported_for_cuda("digits-eager")
    scene.replace("digits-eager", "inference.torch_graph:forbid_tf32", tf32_is_allowed)


class Guessing(nn.Module):
    """Scales what seems not to be scaled yet."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images if images.max() > 1 else images * 255)
        return logits


@fault(
    BAKED,
    where=ARTIFACT,
    hop="runtime",
    says=DIFFER,
    served="digits-torchscript",
    life="`if x.max() > 1` guesses whether pixels are scaled already; a trace keeps the branch that its example took.",
)
def a_branch_on_the_data(scene: Scene) -> None:
    scene.traced("digits-torchscript", Guessing(scene.trained.network), torch.zeros(2, 28, 28, 1, dtype=torch.uint8))


@fault(
    BAKED,
    where=ARTIFACT,
    hop="runtime",
    says="In batches of 1 it fails: ",
    life="The export's example had two rows, and nobody said that there may be others.",
)
def the_size_of_the_batch(scene: Scene) -> None:
    import onnx

    def fix(path: Path) -> None:
        graph = onnx.load(path)
        graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
        onnx.save(graph, path)

    scene.changed_artifact("digits-onnx", fix)


class Elsewhere(nn.Module):
    """Adds zeros that lie on the GPU of the machine that it was exported on."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits + torch.zeros(10, device=torch.device("cuda:7"))


@fault(
    BAKED,
    where=ARTIFACT,
    hop="runtime",
    says="In batches of 1 it fails: ",
    served="digits-torchscript",
    life="forward() makes a tensor on the device that the network was on when it was exported.",
)
def a_device(scene: Scene) -> None:
    scene.scripted("digits-torchscript", Elsewhere(scene.trained.network))


@fault(
    TRAINING,
    where=ARTIFACT,
    hop="runtime",
    says=DIFFER,
    served="digits-torchscript",
    life="Nobody called eval() before the export, so dropout goes on.",
)
def dropout_active(scene: Scene) -> None:
    scene.traced("digits-torchscript", copy.deepcopy(scene.trained.network).train())


@fault(
    TRAINING,
    where=ARTIFACT,
    hop="runtime",
    says=DIFFER,
    served="photos-torchscript",
    life="Nobody called eval() before the export, so batch normalisation takes its numbers from the batch.",
)
def batch_normalisation_active(scene: Scene) -> None:
    scene.traced("photos-torchscript", copy.deepcopy(scene.trained.network).train())


class Halved(nn.Module):
    """Logits that were scaled up and down again, in float16, whose largest number is 65,504."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = (self.network(images) * 20_000).half()
        return (scaled / 20_000).float()


class Relative(Halved):
    """As shares of the largest of them: ∞ / ∞."""

    def forward(self, images: Tensor) -> Tensor:
        scaled: Tensor = (self.network(images) * 20_000).half()
        return (scaled / scaled.amax(dim=1, keepdim=True)).float()


@fault(
    RANGE,
    where=ARTIFACT,
    hop="runtime",
    says="inf, eager",
    served="digits-torchscript",
    life="A network is cast to float16 whole, and one layer's values are larger than it can hold.",
)
def float16_overflows(scene: Scene) -> None:
    scene.exported("digits-torchscript", Halved(scene.trained.network))


@fault(
    RANGE,
    where=ARTIFACT,
    hop="runtime",
    says="nan, eager",
    served="digits-torchscript",
    life="Two values overflowed, and one divided by the other is no number.",
)
def not_a_number(scene: Scene) -> None:
    scene.exported("digits-torchscript", Relative(scene.trained.network))


@fault(
    "answers",
    where=ARTIFACT,
    hop="runtime",
    says=DIFFER,
    life="The network gives probabilities already, and what serves it applies softmax to logits.",
)
def double_softmax(scene: Scene) -> None:
    scene.exported("digits-onnx", nn.Sequential(scene.trained.network, nn.Softmax(dim=1)))
