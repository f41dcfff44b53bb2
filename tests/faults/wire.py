"""The server's answer is right, and what arrives is not."""

from dataclasses import replace

import numpy as np

from tests.faults.catalogue import fault
from tests.faults.scene import Scene
from tests.served.verifying import in_logits, is_npy
from tests.unit.scripted_server import Call, Reply

GROUP = "transport"
WIRE = "the way to the server"


@fault(
    GROUP,
    where=WIRE,
    hop="http",
    says="differ, worst",
    life="A gateway stores answers in half the bytes.",
)
def float32_through_float16(scene: Scene) -> None:
    scene.wire(in_logits(lambda logits: logits.astype(np.float16).astype(np.float32)))


@fault(
    GROUP,
    where=WIRE,
    hop="http",
    says="differ, worst",
    life="tobytes() on one machine and frombuffer() on another, whose bytes go the other way.",
)
def bytes_in_the_other_order(scene: Scene) -> None:
    scene.wire(in_logits(lambda logits: logits.byteswap()))


def columns_first(_: Call, reply: Reply, __: int) -> Reply:
    """The header says Fortran's order; the values lie in C's."""
    if not is_npy(reply):
        return reply
    return replace(reply, body=reply.body.replace(b"'fortran_order': False", b"'fortran_order': True ", 1))


@fault(
    GROUP,
    where=WIRE,
    hop="http_batched",
    says="differ, worst",
    life="An array that was transposed is written as it lies. For a single row the two orders are the same.",
)
def columns_for_rows(scene: Scene) -> None:
    scene.wire(columns_first)


def cut(_: Call, reply: Reply, __: int) -> Reply:
    return replace(reply, body=reply.body[:-9]) if is_npy(reply) else reply


@fault(
    GROUP,
    where=WIRE,
    hop="http",
    says="the npy file is not as long as its header says",
    life="A proxy's buffer was full. The status line had gone out long before, and says 200.",
)
def cut_short_with_status_200(scene: Scene) -> None:
    scene.wire(cut)
