"""Numbers that clients send and get: nested lists, or NumPy's .npy in base64."""

import base64
import io
import math
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainValidator, WithJsonSchema

from service.images import encode_npy

Floats = NDArray[np.float32]

#: The farthest from 0 that a number of a latent may be: any model's are within ten or so, and none takes infinity.
FARTHEST = 100.0


class Array(NamedTuple):
    """Numbers as a request has them: ``shape``, and float32 in C order."""

    shape: tuple[int, ...]
    data: bytes

    def numpy(self) -> Floats:
        """The same for computing."""
        return np.frombuffer(self.data, np.float32).reshape(self.shape)


def to_base64(array: Floats) -> str:
    """A .npy file in base64, as ``Array`` reads it."""
    return base64.b64encode(encode_npy(array)).decode()


def from_base64(text: str) -> Floats:
    """The numbers of a .npy file in base64. Raises ValueError where it is none, or none of plain numbers."""
    try:
        file = io.BytesIO(base64.b64decode(text, validate=True))
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
    except Exception as failure:  # NumPy's reader has errors of many kinds for what is no such header
        raise ValueError("is no .npy file in base64") from failure
    # Looked at before anything is made of it: a header may promise any shape and any type, Python objects too.
    if (
        dtype.kind not in "fiu"
        or fortran_order
        or not all(type(size) is int and size >= 0 for size in shape)
        or len(file.getbuffer()) - file.tell() != math.prod(shape) * dtype.itemsize
    ):
        raise ValueError("is no .npy file of plain numbers in C order")
    try:
        return np.frombuffer(file.read(), dtype).reshape(shape).astype(np.float32)
    except ValueError:
        raise ValueError("is a .npy file of more dimensions than arrays have") from None


def _to_array(value: object) -> Array:
    if isinstance(value, Array):
        return value
    # What is not finite, or becomes so in float32, is beyond them as well.
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = from_base64(value) if isinstance(value, str) else _from_list(value)
        if not (np.abs(numbers) <= FARTHEST).all():
            raise ValueError(f"has numbers beyond {FARTHEST:g}")
    return Array(numbers.shape, numbers.tobytes())


def _from_list(value: object) -> Floats:
    if not isinstance(value, list):
        raise ValueError("is a nested list of numbers, or a .npy file in base64")
    try:
        numbers = np.asarray(value)
    except ValueError:
        raise ValueError("is a nested list whose parts differ in length") from None
    if numbers.dtype.kind not in "fiu":
        raise ValueError("is a nested list of numbers, and of nothing else")
    return numbers.astype(np.float32)


#: A field that holds numbers: a nested list, or a .npy file in base64.
Numbers = Annotated[
    Array,
    PlainValidator(_to_array),
    WithJsonSchema({"anyOf": [{"type": "array", "items": {}}, {"type": "string", "contentEncoding": "base64"}]}),
]
