"""Arrays that come decoded already, as npy files."""

import tokenize
import warnings
from io import BytesIO

import numpy as np

from inference.base import BadInput, Pixels
from inference.contract import ImageInput

NPY = "application/x-npy"
HEADER_LIMIT = 256  # characters; four dimensions take half of it, and the parser can't be led deep in so few


def is_npy(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() == NPY


def decode_npy(body: bytes, spec: ImageInput) -> Pixels:
    """An npy file → uint8 [N, height, width, channels], a view of `body`. Never unpickles. Raises BadInput."""
    wanted = f"Send uint8 of shape [N, {', '.join(map(str, spec.shape))}]"
    stream = BytesIO(body)
    try:
        version = np.lib.format.read_magic(stream)
        if version != (1, 0):
            raise BadInput(f"The npy file has format version {version}. Save it with numpy.save, as version 1.0.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's about headers that Python 2 wrote
            shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream, HEADER_LIMIT)
    except BadInput:
        raise
    except (ValueError, EOFError, SyntaxError, TypeError, tokenize.TokenError):
        raise BadInput(f"The body is not a whole npy file. {wanted}, saved with numpy.save.") from None
    if dtype != np.uint8:
        raise BadInput(f"The npy array has dtype {dtype}. {wanted}.")
    if len(shape) != 4 or shape[1:] != spec.shape or shape[0] < 1:
        raise BadInput(f"The npy array has shape {list(shape)}. {wanted}, N at least 1.")
    pixels = np.frombuffer(body, np.uint8, offset=stream.tell())
    if pixels.size != np.prod(shape, dtype=object):
        raise BadInput(f"The npy file holds {pixels.size:,} values where its header says {list(shape)}. Send it whole.")
    return pixels.reshape(shape, order="F" if fortran_order else "C")
