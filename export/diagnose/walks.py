"""Walks: each takes inputs through a network or an artifact and gives back the result of every step."""

import ast
import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from inference import weights
from inference.inputs import Rows
from inference.runtimes import onnx as onnx_runtime
from inference.runtimes.torchscript import deprecated
from inference.torch_graph import prepare
from models import make_network

# One word for what PyTorch and ONNX have several names for. Any other operation is called what it is called there.
WORDS = {
    "convolution": ("conv", "conv1d", "conv2d", "conv3d"),
    "linear": ("addmm", "gemm", "matmul", "mm"),
    "normalisation": ("batch_norm", "native_batch_norm", "batchnormalization"),
    "max pool": ("max_pool2d", "maxpool"),
    "average": ("adaptive_avg_pool2d", "averagepool", "avg_pool2d", "globalaveragepool", "mean", "reducemean"),
    "reshape": ("flatten", "squeeze", "unsqueeze", "view"),
    "permute": ("transpose",),
    "layer norm": ("layer_norm", "native_layer_norm", "layernormalization"),
}
KINDS = {name: word for word, names in WORDS.items() for name in names}

# They hand on what they are given, in another type or place.
COPIES = {
    *("alias", "cast", "clone", "contiguous", "detach", "identity", "to", "to_copy"),
    *("dequantizelinear", "quantizelinear"),
}


@dataclass(frozen=True)
class Step:
    """One operation's result."""

    operation: str
    value: NDArray[Any]  # floating-point [B, …]
    constant: bool  # whether a constant of the network was among what it was computed from
    layer: str = ""  # the module, or the constant's name where that is the whole network; "" where the graph says none


Walk = Callable[[Rows], list[Step]]  # [B, *input.shape] → the steps in the order in which they are computed


def kind(name: str) -> str:
    """An operation's name in PyTorch or ONNX → this file's word for it: "relu_" and "Relu" are both "relu"."""
    plain = name.lower().strip("_")
    return KINDS.get(plain, plain)


def walk_network(network: nn.Module, device: str = "cpu") -> Walk:
    """PyTorch's own operations while the network runs as it is: nothing is traced, and nothing is folded."""
    watched = copy.deepcopy(network).to(device)
    path: list[str] = []  # the modules that are being computed, the innermost last; the whole network is not named

    def leave(*_: object) -> None:
        del path[-1]

    for name, module in watched.named_modules():
        if name:
            module.register_forward_pre_hook(lambda *_, name=name: path.append(name))
            module.register_forward_hook(leave)

    def walk(rows: Rows) -> list[Step]:
        record = _Record(watched, path)
        with torch.inference_mode(), record:
            watched(torch.from_numpy(rows).to(device))
        return record.steps

    return walk


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that are called while it is entered, and in which module."""

    def __init__(self, network: nn.Module, path: list[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._path, self._whole = path, type(network).__name__
        self._names = {id(tensor): name for name, tensor in chain(network.named_parameters(), network.named_buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        constants = [self._names[id(value)] for value in args if id(value) in self._names]
        layer = self._path[-1] if self._path else next(iter(constants), self._whole)
        self.steps += _step(func.overloadpacket.__name__, result, bool(constants), layer)
        return result


def _step(name: str, result: Any, constant: bool, layer: str = "") -> Iterator[Step]:
    """A step, if it is one to be compared. The result is copied, since a later step may work in its place."""
    value = result[0] if isinstance(result, tuple | list) and result else result
    operation = kind(name)
    if isinstance(value, Tensor) and value.is_floating_point() and operation not in COPIES:
        dtype = value.dtype if value.dtype == torch.float64 else torch.float32  # NumPy has no bfloat16
        yield Step(operation, value.detach().to("cpu", dtype, copy=True).numpy(), constant, layer)


def walk_eager(path: Path, device: str, threads: int) -> Walk:
    """The network with the weights of that file."""
    prepare(device, threads)
    return walk_network(weights.read(path, make_network)[0], device)


def walk_onnx(path: Path, device: str, threads: int) -> Walk:
    """A copy of the graph in which every node's result is an output, run by ONNX Runtime.

    What is an output can't be fused away, so a convolution and the ReLU after it are two steps here and may be one when
    it is served, and between bytes everything is computed as float. A fault of ONNX Runtime's fusions is not seen.
    """
    import onnx

    model = onnx.load(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.input and kind(node.op_type) not in COPIES]
    given = {output.name for output in model.graph.output}
    results = [node.output[0] for node in nodes]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in results if name not in given)
    with tempfile.TemporaryDirectory() as scratch:
        onnx.save(model, Path(scratch, path.name))
        session = onnx_runtime.open_session(Path(scratch, path.name), device, threads)

    def layer(node: Any) -> str:
        """What PyTorch's exporter noted: the modules, from the outermost inwards, and the operation."""
        scopes = next((note.value for note in node.metadata_props if note.key == "pkg.torch.onnx.name_scopes"), "[]")
        modules = ["", *ast.literal_eval(scopes)[:-1]]
        return modules[-1] or next((name for name in node.input if name in constants), "")

    def walk(rows: Rows) -> list[Step]:
        with onnx_runtime.onnx_out_of_memory():
            values = session.run(results, {session.get_inputs()[0].name: rows})
        return [
            Step(kind(node.op_type), value, not constants.isdisjoint(node.input), layer(node))
            for node, value in zip(nodes, values, strict=True)
            if np.issubdtype(value.dtype, np.floating)
        ]

    return walk


def walk_torchscript(path: Path, device: str, threads: int) -> Walk:
    """Each node by itself, by the operation of PyTorch's that it names. Raises ValueError for a graph that branches."""
    prepare(device, threads)
    with deprecated():
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    graph = module.inlined_graph
    for node in graph.nodes():
        if next(node.blocks(), None):
            raise ValueError(f"The graph of {path.name} branches ({node.kind()}), so its layers can't be compared.")

    @torch.inference_mode()
    def walk(rows: Rows) -> list[Step]:
        given = (module, torch.from_numpy(rows).to(device))
        values = dict(zip([value.debugName() for value in graph.inputs()], given, strict=True))
        constants: set[str] = set()
        steps: list[Step] = []
        for node in graph.nodes():
            inputs, outputs = ([value.debugName() for value in side()] for side in (node.inputs, node.outputs))
            result = _evaluate(node, [values[name] for name in inputs])
            values.update(zip(outputs, result if len(outputs) > 1 else [result], strict=True))
            if node.kind() in ("prim::Constant", "prim::GetAttr"):
                constants |= {output for output in outputs if isinstance(values[output], Tensor)}
            else:
                steps += _step(node.kind().partition("::")[2], result, not constants.isdisjoint(inputs))
        return steps

    return walk


def _evaluate(node: Any, inputs: list[Any]) -> Any:
    """A node's result; of several, all of them."""
    match node.kind():
        case "prim::Constant":
            return node.output().toIValue()
        case "prim::GetAttr":
            return getattr(inputs[0], node.s("name"))
        case "prim::ListConstruct" | "prim::TupleConstruct":
            return inputs
        case "prim::ListUnpack" | "prim::TupleUnpack":
            return inputs[0]
    schema = torch._C.parse_schema(node.schema())
    namespace, _, name = schema.name.partition("::")
    operation = getattr(getattr(getattr(torch.ops, namespace), name), schema.overload_name or "default")
    return operation(**{argument.name: value for argument, value in zip(schema.arguments, inputs, strict=True)})
