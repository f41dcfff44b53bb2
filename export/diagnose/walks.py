"""Walks: each takes pixels through a network or an artifact and gives back the result of every step."""

import ast
import copy
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from export.diagnose.steps import COPIES, Step, kind
from inference import weights
from inference.inputs import Rows
from inference.runtimes import onnx as onnx_runtime
from inference.runtimes.torchscript import deprecated
from inference.torch_graph import prepare
from models import make_network

Walk = Callable[[Rows], list[Step]]  # [B, *input.shape] → the steps in the order in which they are computed


def walk_network(network: nn.Module, device: str = "cpu") -> Walk:
    """PyTorch's own operations while the network runs as it is: nothing is traced, and nothing is folded."""
    watched = copy.deepcopy(network).to(device)
    path = _follow(watched)

    def walk(rows: Rows) -> list[Step]:
        record = _Record(watched, path)
        with torch.inference_mode(), record:
            watched(torch.from_numpy(rows).to(device))
        return record.steps

    return walk


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

    def walk(rows: Rows) -> list[Step]:
        with onnx_runtime.onnx_out_of_memory():
            values = session.run(results, {session.get_inputs()[0].name: rows})
        return [
            Step(kind(node.op_type), value, not constants.isdisjoint(node.input), _layer(node, constants))
            for node, value in zip(nodes, values, strict=True)
            if np.issubdtype(value.dtype, np.floating)
        ]

    return walk


def _layer(node: Any, constants: Collection[str]) -> str:
    """What PyTorch's exporter noted about a node: the modules, from the outermost inwards, and the operation."""
    scopes = next((note.value for note in node.metadata_props if note.key == "pkg.torch.onnx.name_scopes"), "[]")
    modules = ast.literal_eval(scopes)[:-1]
    return (modules and modules[-1]) or next((name for name in node.input if name in constants), "")


def walk_torchscript(path: Path, device: str, threads: int) -> Walk:
    """Each node of the graph by itself, by the operation of PyTorch's that it names.

    Raises ValueError for a graph that branches.
    """
    prepare(device, threads)
    with deprecated():
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
    graph = module.inlined_graph
    for node in graph.nodes():
        if next(node.blocks(), None):
            raise ValueError(f"The graph of {path.name} branches ({node.kind()}), so its layers can't be compared.")

    def walk(rows: Rows) -> list[Step]:
        with torch.inference_mode():
            return list(_interpret(graph, module, torch.from_numpy(rows).to(device)))

    return walk


def _interpret(graph: Any, module: torch.jit.ScriptModule, images: Tensor) -> Iterator[Step]:
    values = dict(zip([value.debugName() for value in graph.inputs()], (module, images), strict=True))
    constants = set()
    for node in graph.nodes():
        inputs, outputs = ([value.debugName() for value in side()] for side in (node.inputs, node.outputs))
        result = _evaluate(node, [values[name] for name in inputs])
        values.update(zip(outputs, result if len(outputs) > 1 else [result], strict=True))
        name = node.kind().partition("::")[2]
        if node.kind() in ("prim::Constant", "prim::GetAttr"):
            constants |= {output for output in outputs if isinstance(values[output], Tensor)}
        else:
            yield from _step(name, result, constant=not constants.isdisjoint(inputs))


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


def _step(name: str, result: Any, constant: bool, layer: str = "") -> Iterator[Step]:
    """A step, if it is one to be compared. The result is copied, since a later step may work in its place."""
    value = result[0] if isinstance(result, tuple | list) and result else result
    operation = kind(name)
    if not isinstance(value, Tensor) or not value.is_floating_point() or operation in COPIES:
        return
    dtype = value.dtype if value.dtype == torch.float64 else torch.float32  # NumPy has no bfloat16
    yield Step(operation, value.detach().to("cpu", dtype, copy=True).numpy(), constant, layer)


class _Record(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations that are called while it is entered, and in which module."""

    def __init__(self, network: nn.Module, path: deque[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._path = path
        self._whole = type(network).__name__
        self._names = {id(tensor): name for name, tensor in chain(network.named_parameters(), network.named_buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        constants = [self._names[id(value)] for value in args if id(value) in self._names]
        layer = self._path[-1] if self._path else next(iter(constants), self._whole)
        self.steps += _step(func.overloadpacket.__name__, result, bool(constants), layer)
        return result


def _follow(network: nn.Module) -> deque[str]:
    """The modules that are being computed at any moment, the innermost last; the whole network is not named."""
    path: deque[str] = deque()

    def leave(*_: Any) -> None:
        path.pop()

    for name, module in network.named_modules():
        if name:
            module.register_forward_pre_hook(lambda *_, name=name: path.append(name))
            module.register_forward_hook(leave)
    return path
