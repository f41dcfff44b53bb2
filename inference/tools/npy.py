"""Arrays that come decoded already, as npy files."""

import math
import tokenize
import warnings
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from inference.base import BadInput

NPY = "application/x-npy"
MAGIC = b"\x93NUMPY"
HEADER_BYTES = 128  # of what is written here
HEADER_LIMIT = 256  # characters; four dimensions take half of it, and the parser can't be led deep in so few


def is_npy(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == NPY


def encode_npy(array: NDArray[Any]) -> bytes:
    stream = BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def decode_npy(body: bytes, dtype: DTypeLike, row: tuple[int, ...]) -> NDArray[Any]:
    """An npy file → [N, *row] of `dtype`, a view of `body`. Never unpickles. Raises BadInput."""
    wanted = f"Send {np.dtype(dtype)} of shape [{', '.join(map(str, ('N', *row)))}]"
    stream = BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise BadInput(f"The npy file has format version {version}. Save it with numpy.save, as version 1.0.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's about headers that Python 2 wrote
            shape, fortran_order, found = np.lib.format.read_array_header_1_0(stream, HEADER_LIMIT)
    except BadInput:
        raise
    except (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError):
        raise BadInput(f"The body is not a whole npy file. {wanted}, saved with numpy.save.") from None
    if found != dtype:
        raise BadInput(f"The npy array has dtype {found}. {wanted}.")
    if len(shape) != 1 + len(row) or shape[1:] != row or shape[0] < 1:
        raise BadInput(f"The npy array has shape {list(shape)}. {wanted}, N at least 1.")
    held = (len(body) - stream.tell()) / found.itemsize
    if held != math.prod(shape):
        raise BadInput(f"The npy file holds {held:,g} values where its header says {list(shape)}. Send it whole.")
    return np.frombuffer(body, found, offset=stream.tell()).reshape(shape, order="F" if fortran_order else "C")
