"""ONNX: the network captured as an ONNX graph, run by ONNX Runtime, which on the CPU needs no torch."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from inference.base import OutOfMemory, out_of_memory
from inference.contract import Contract
from inference.inputs import Batch
from inference.outputs import Outputs
from inference.runtime import CONTRACT, FLOAT32, WEIGHTS, CannotRun, Loaded, Network, Source, never_missing

if TYPE_CHECKING:
    import onnxruntime

ARTIFACT = "model.onnx"
PRECISION = FLOAT32
missing = never_missing
NO_MEMORY = ("Failed to allocate memory", "out of memory")  # ONNX Runtime's own words, and CUDA's


def export(source: Source, path: Path, _: str) -> None:
    """Weights are kept inside the file, which the format allows up to 2 GB."""
    import torch

    batch = torch.export.Dim("batch", min=1, max=source.contract.max_batch)
    program = torch.onnx.export(
        source.network,
        (source.example,),
        dynamo=True,
        dynamic_shapes=({0: batch},),
        input_names=[source.contract.input.name],
        output_names=[source.contract.output.name],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props.update(source.metadata)
    program.save(path, external_data=False)


def load(path: Path, device: str, threads: int, _: Network) -> Loaded:
    if device != "cpu":
        from inference.torch_graph import prepare  # not at the top: the CPU needs no torch

        prepare(device, threads)
    session = open_session(path, device, threads)
    metadata = session.get_modelmeta().custom_metadata_map
    contract = Contract.parse(metadata[CONTRACT], path)
    run = runner(session, contract) if device == "cpu" else bound(session, contract, device)
    return Loaded(run, contract, metadata[WEIGHTS], session.get_providers()[0], device)


def runner(session: "onnxruntime.InferenceSession", contract: Contract) -> Callable[[Batch], Outputs]:
    """A session → a callable that raises OutOfMemory."""
    given, gives = contract.input.name, contract.output.name

    def run(batch: Batch) -> Outputs:
        with onnx_out_of_memory():
            outputs: Outputs = session.run([gives], {given: batch})[0]
        return outputs

    return run


def bound(session: "onnxruntime.InferenceSession", contract: Contract, device: str) -> Callable[[Batch], Outputs]:
    """As `runner`, for a GPU: batches go to it once, and stay there."""
    import torch

    from inference.torch_graph import Buffers

    index, given, gives = torch.cuda.current_device(), contract.input, contract.output
    buffers = Buffers(contract, device)
    outputs = torch.empty((contract.max_batch, *gives.shape), device=device)

    def run(batch: Batch) -> Outputs:
        size = len(batch)
        with out_of_memory(), onnx_out_of_memory():
            buffers.put(batch)
            binding = session.io_binding()
            place = buffers.inputs.data_ptr()
            binding.bind_input(given.name, "cuda", index, given.dtype.type, [size, *given.shape], place)
            binding.bind_output(gives.name, "cuda", index, np.float32, [size, *gives.shape], outputs.data_ptr())
            torch.cuda.current_stream().synchronize()  # the session has a stream of its own
            session.run_with_iobinding(binding)
            return buffers.take(outputs[:size])

    return run


@contextmanager
def onnx_out_of_memory() -> Iterator[None]:
    """ONNX Runtime's error becomes OutOfMemory."""
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

    try:
        yield
    except (Fail, RuntimeException, RuntimeError) as error:  # of all kinds; the words alone tell which
        if not any(words in str(error) for words in NO_MEMORY):
            raise
        raise OutOfMemory(str(error)) from None


def open_session(path: Path, device: str, threads: int) -> "onnxruntime.InferenceSession":
    """A session that runs every node on `device`, or CannotRun; ValueError where ONNX Runtime finds no such device.

    By itself it falls back to the CPU, for the session or for single nodes, and computes with TF32 on CUDA.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # ONNX Runtime reads it when it is imported
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    onnxruntime.preload_dlls()
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    providers = [("CUDAExecutionProvider", {"device_id": index or "0", "use_tf32": "0"})]

    def opened(options: "onnxruntime.SessionOptions | None") -> "onnxruntime.InferenceSession":
        with onnx_out_of_memory():
            return onnxruntime.InferenceSession(path, options, providers=providers, enable_fallback=False)

    try:
        session = opened(options)
    except Fail as error:
        # The same error tells of a node that has no kernel there, and of no device: which is it?
        session = opened(None)
        if session.get_providers()[0] == "CUDAExecutionProvider":
            raise CannotRun(f"ONNX Runtime can't run {path.name} on {device}: {error}") from None
    if (chosen := session.get_providers()[0]) != "CUDAExecutionProvider":
        raise ValueError(f"ONNX Runtime was asked for {device} and could only choose {chosen}.")
    return session
