"""The predictor as TorchServe calls it. TorchServe wants one class here, with these two methods and no base class."""

import logging
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from socket import socket
from typing import Any, BinaryIO

from inference.bundle import Bundle, read_goldens
from inference.messages import Request
from inference.metrics import ARRIVAL, Metrics
from inference.runtime import device_kind


class Handler:
    def initialize(self, context: Any) -> None:
        """Called once in each worker, before it is READY. What it raises keeps the worker from taking requests."""
        properties = context.system_properties
        directory = Path(properties["model_dir"])
        bundle = Bundle.read(directory)
        device = "cpu" if properties["gpu_id"] is None else f"cuda:{properties['gpu_id']}"
        if bundle.device != device_kind(device):
            raise RuntimeError(f"The archive asks for device {bundle.device}; this worker was given {device}.")
        name, version = context.model_name, context.manifest["model"]["modelVersion"]
        self.predictor = bundle.load(directory, device, int(os.environ["OMP_NUM_THREADS"]), name, version)
        self.predictor.check(read_goldens(directory))
        self.metrics = Metrics(name, version, self.predictor.contract.output.categories)
        self.metrics.started()
        _read_ahead()
        # The worker would print two lines for each batch, which TorchServe reads and drops: a twentieth of its time.
        logging.getLogger().setLevel(logging.WARNING)

    def handle(self, data: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Exactly one answer for each of `data`; TorchServe fails the whole batch otherwise."""
        start, clock = time.time(), time.perf_counter()
        requests = [_request(row, context.get_all_request_header(index)) for index, row in enumerate(data)]
        try:
            answers = self.predictor.answer(requests)
        except Exception:
            _end_without_a_device(self.predictor.attestation["device"])
            raise
        for index, answer in enumerate(answers):
            context.set_response_status(answer.status, "" if answer.status == 200 else "refused", index)
            context.set_response_content_type(index, answer.content_type)
            for name, value in answer.headers.items():
                context.set_response_header(index, name, value)
        arrivals = [request.headers.get(ARRIVAL.lower(), "") for request in requests]
        self.metrics.answered(arrivals, answers, start, time.perf_counter() - clock)
        return [answer.body for answer in answers]


def _end_without_a_device(device: str) -> None:
    """Ends a worker whose GPU gives nothing but errors any more, so that TorchServe starts another one."""
    if device == "cpu":
        return
    import torch  # not at the top: ONNX Runtime on the CPU needs none

    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        logging.getLogger(__name__).error("The GPU is lost to this process, which ends: %s", reason)
        os._exit(1)


def _request(row: Mapping[str, Any], headers: Mapping[str, Any]) -> Request:
    """A raw body arrives as `body`, a form's file as the form's field.

    Content types of single fields lie among the request's headers, where a header of a field's name takes their place.
    """
    field, *others = row or ("body",)
    own = headers.get(field)
    plain = {name.lower(): value for name, value in headers.items() if isinstance(value, str)}
    return Request(
        body=bytes(row.get(field, b"")),
        headers=plain,
        others=tuple(others),
        content_type=own["content-type"] if isinstance(own, dict) else None,
        describe=plain.get("describe") == "True",
    )


def _read_ahead() -> None:
    """From now on this process reads what Java sends ahead; called between two messages.

    TorchServe's own code asks the kernel for each length and each word by itself, some thirty times for a picture. The
    bodies come as bytes, which need no copy.
    """
    from ts.protocol import otf_message_handler  # not at the top: it imports torch

    readers: dict[socket, BinaryIO] = {}

    def retrieve(connection: socket, length: int) -> bytes:
        if connection not in readers:
            readers[connection] = connection.makefile("rb")
        data = readers[connection].read(length)
        if len(data) < length:
            sys.exit(0)  # Java has gone, and TorchServe's own code ends the worker so
        return data

    otf_message_handler._retrieve_buffer = retrieve
