"""How a worker reads what Java sends: ahead.

TorchServe's own code asks the kernel for each length and each word by itself, some thirty times for a picture.
"""

import sys
from socket import socket
from typing import BinaryIO


def read_ahead() -> None:
    """From now on, in this process; called between two messages. The bodies come as bytes, which need no copy."""
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
