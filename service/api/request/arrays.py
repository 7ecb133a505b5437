"""Arrays in requests and responses: nested lists, or NumPy's .npy format in base64."""

import base64
import io
import math
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator, WithJsonSchema

from service.images import encode_npy

Floats = NDArray[np.float32]

#: Largest magnitude of a number: latents of real models stay within about 10.
MAX_MAGNITUDE = 100.0


class Array(NamedTuple):
    """An array as a request holds it: ``shape``, and float32 in C order as bytes, which compare and hash cheaply."""

    shape: tuple[int, ...]
    data: bytes

    def numpy(self) -> Floats:
        """The array, read-only."""
        return np.frombuffer(self.data, np.float32).reshape(self.shape)


def to_base64(array: Floats) -> str:
    """``array`` as a .npy file in base64."""
    return base64.b64encode(encode_npy(array)).decode()


def from_base64(text: str) -> Floats:
    """The float32 array of a .npy file in base64. Raises ValueError where it is not one of plain numbers."""
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except Exception as failure:  # NumPy's reader raises many types for a bad header
        raise ValueError("is not a .npy file in base64") from failure
    # Checked before anything is allocated: a header can claim any shape, and Python objects as type.
    if (
        dtype.kind not in "fiu"
        or fortran_order
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(file.getbuffer()) - file.tell() != math.prod(shape) * dtype.itemsize
    ):
        raise ValueError("is not a .npy file of plain numbers in C order")
    try:
        return np.frombuffer(file.read(), dtype).reshape(shape).astype(np.float32)
    except ValueError:
        raise ValueError("is a .npy file with too many dimensions") from None


def _to_array(value: object) -> Array:
    if isinstance(value, Array):
        return value
    # NaN, infinity and what overflows float32 fail the comparison as well.
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = from_base64(value) if isinstance(value, str) else _from_list(value)
        if not (np.abs(numbers) <= MAX_MAGNITUDE).all():
            raise ValueError(f"has numbers outside -{MAX_MAGNITUDE:g} to {MAX_MAGNITUDE:g}")
    return Array(numbers.shape, numbers.tobytes())


def _from_list(value: object) -> Floats:
    if not isinstance(value, list):
        raise ValueError("must be a nested list of numbers, or a .npy file in base64")
    try:
        numbers = np.asarray(value)
    except ValueError:
        raise ValueError("is a nested list of unequal lengths") from None
    if numbers.dtype.kind not in "fiu":
        raise ValueError("must be a nested list of numbers only")
    return numbers.astype(np.float32)


#: A field that holds an array: a nested list, or a .npy file in base64.
Numbers = Annotated[
    Array,
    PlainValidator(_to_array),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "string", "contentEncoding": "base64"}]}),
]
