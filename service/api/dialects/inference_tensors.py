"""Requests of the Open Inference Protocol: JSON, with tensors inside it or as binary data behind it."""

import math
import zlib
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from pydantic_core import to_json
from starlette.requests import Request

from service.api.dialects.native import DialectRequest, with_native
from service.api.request.arrays import to_base64
from service.api.request.body import check_no_query, parse_json, read_body
from service.api.request.capabilities import unsupported
from service.api.request.schemas import GenerateRequest
from service.contract.classes import NO_CLASS
from service.engine.model import Model
from service.errors import BadRequest, BodyTooLarge, InvalidField
from service.settings import Settings

#: The header with the length of the JSON in bytes; the tensors follow in order, little-endian.
HEAD_LENGTH = "Inference-Header-Content-Length"

#: zlib's code for detecting gzip or zlib, HTTP's gzip and deflate.
_GZIP_OR_ZLIB = 47

_MOST_DIMENSIONS = 8

InputName = Literal["seed", "class_label", "prompt", "negative_prompt", "latents"]
#: The tensors of a request, with the protocol's and NumPy's name of their type; O: text.
INPUTS: Mapping[InputName, tuple[str, str]] = {
    "seed": ("INT64", "<i8"),
    "class_label": ("INT64", "<i8"),
    "prompt": ("BYTES", "O"),
    "negative_prompt": ("BYTES", "O"),
    "latents": ("FP32", "<f4"),
}


def inputs_of(model: Model) -> Mapping[InputName, str]:
    """The tensors that requests to ``model`` may have, with the protocol's name of their type."""
    return {name: kind for name, (kind, _) in INPUTS.items() if unsupported(model, name, "generate") is None}


def _flat(data: object) -> object:
    """The nested lists of a tensor flattened in row-major order; any other value unchanged."""
    for _ in range(_MOST_DIMENSIONS - 1):
        if not (isinstance(data, list) and data and isinstance(data[0], list)):
            return data
        if not all(isinstance(part, list) and len(part) == len(data[0]) for part in data):
            raise ValueError("is a nested list of unequal lengths")
        data = [*chain.from_iterable(data)]
    return data


class _InputParameters(DialectRequest):
    binary_data_size: int | None = Field(default=None, ge=0, description="Bytes of this tensor behind the JSON.")


class _Input(DialectRequest):
    name: InputName
    shape: Annotated[list[Annotated[int, Field(ge=1, le=2**31)]], Field(min_length=1, max_length=_MOST_DIMENSIONS)]
    datatype: Literal["INT64", "FP32", "BYTES"]
    parameters: _InputParameters = _InputParameters()
    data: (
        Annotated[
            list[Annotated[int, Field(ge=-(2**63), lt=2**63)] | float | str],
            Field(fail_fast=True),
            BeforeValidator(_flat),
        ]
        | None
    ) = Field(
        default=None,
        description="The numbers or texts in row-major order, flat or nested like the shape. Absent for a binary "
        "tensor.",
    )


class _OutputParameters(DialectRequest):
    binary_data: bool = False


class _Output(DialectRequest):
    name: Literal["images"]
    parameters: _OutputParameters = _OutputParameters()


class _Parameters(DialectRequest):
    binary_data_output: bool = False


_PARAMETERS = with_native(
    _Parameters,
    "n",
    "negative_class",
    "steps",
    "solver",
    "eta",
    "guidance_scale",
    "truncation",
    "width",
    "height",
    "lora",
    "timeout_ms",
)


class InferRequest(DialectRequest):
    """The body of POST /v2/models/{model}/infer."""

    id: str | None = Field(default=None, max_length=128, description="Returned unchanged.")
    model_name: str | None = Field(
        default=None, max_length=256, description="No effect: the path names the model. KServe's client sends it."
    )
    from_grpc: bool | None = Field(default=None, description="No effect. KServe's client sends it.")
    parameters: _PARAMETERS = Field(  # type: ignore[valid-type]
        default=_PARAMETERS(), description="Fields of /generate."
    )
    inputs: list[_Input] = Field(
        default=[],
        max_length=len(INPUTS),
        description="seed, class_label, prompt, negative_prompt and latents, with a value for each picture; one prompt "
        "may be that of all; class_label -1: no class. Absent ones as in /generate.",
    )
    outputs: list[_Output] = Field(default=[], max_length=1, description="images; also returned if not named.")

    @property
    def binary(self) -> bool:
        """Whether the response has the pictures as binary data behind its JSON."""
        wanted = self.outputs[0].parameters if self.outputs else _OutputParameters()
        own: _Parameters = self.parameters
        return wanted.binary_data if "binary_data" in wanted.model_fields_set else own.binary_data_output


async def read_unpacked(request: Request, settings: Settings) -> bytes:
    """The body, decompressed. Raises as ``read_body`` and ``check_no_query``, and BadRequest."""
    check_no_query(request)
    body = await read_body(request, settings)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in ("gzip", "deflate"):
        raise BadRequest("Content-Encoding must be absent, identity, gzip or deflate.")
    unpacker = zlib.decompressobj(wbits=_GZIP_OR_ZLIB)
    try:
        unpacked = unpacker.decompress(body, settings.max_body_bytes + 1)
    except zlib.error:
        raise BadRequest(f"The body is not valid {encoding} data.") from None
    if len(unpacked) > settings.max_body_bytes:
        raise BodyTooLarge(settings.max_body_bytes)
    if not unpacker.eof or unpacker.unused_data:
        raise BadRequest(f"The body does not end with its {encoding} data.")
    return unpacked


def split(request: Request, body: bytes) -> tuple[bytes, bytes]:
    """The JSON of ``body``, and the tensors behind it. Raises BadRequest."""
    length = request.headers.get(HEAD_LENGTH)
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= len(body)):
        raise BadRequest(f"{HEAD_LENGTH} must be the size of the JSON in bytes, at most the body's {len(body)}.")
    return body[: int(length)], body[int(length) :]


def to_native(infer: InferRequest, binary: bytes) -> GenerateRequest:
    """``infer`` as a request to /generate. Raises InvalidField."""
    own: DialectRequest = infer.parameters
    fields: dict[str, object] = own.model_dump(include=set(own.shared), exclude_unset=True)
    tensors = _tensors(infer.inputs, binary)
    if tensors and "n" not in fields and "seed" not in tensors:
        fields["n"] = max(map(len, tensors.values()))
    for name, tensor in tensors.items():
        if name == "seed":
            fields["seeds"] = tensor.tolist()
        elif name == "class_label":
            fields["class_label"] = [NO_CLASS if label == -1 else label for label in tensor.tolist()]
        elif name == "latents":
            fields["latents"] = to_base64(tensor)
        else:
            fields[name] = tensor.tolist() if len(tensor) > 1 else tensor[0]
    return parse_json(GenerateRequest, to_json(fields))


def _tensors(inputs: Sequence[_Input], binary: bytes) -> dict[InputName, NDArray[Any]]:
    """The tensors by name; ``binary`` holds those behind the JSON in order. Raises InvalidField."""
    found: dict[InputName, NDArray[Any]] = {}
    for index, tensor in enumerate(inputs):
        place, size = f"inputs/{index}", tensor.parameters.binary_data_size
        datatype, dtype = INPUTS[tensor.name]
        if tensor.name in found:
            raise InvalidField.of(place, f"{tensor.name} occurs more than once")
        if tensor.datatype != datatype:
            raise InvalidField.of(f"{place}/datatype", f"is not the type of {tensor.name}", datatype)
        if (size is None) == (tensor.data is None):
            raise InvalidField.of(place, "needs either data or binary_data_size", "one of the two")
        if size is None:
            values = _values(f"{place}/data", tensor.data or [], dtype)
        else:
            if size > len(binary):
                raise InvalidField.of(place, f"has fewer than {size} bytes behind the JSON")
            values, binary = _unpacked(place, binary[:size], dtype), binary[size:]
        if math.prod(tensor.shape) != len(values) or (datatype != "FP32" and len(tensor.shape) != 1):
            raise InvalidField.of(f"{place}/shape", f"does not fit {len(values)} values")
        found[tensor.name] = values.reshape(tensor.shape)
    if binary:
        raise InvalidField.of("inputs", f"leave {len(binary)} bytes behind the JSON unused")
    return found


#: The types of a tensor's values in JSON, and what they are called.
_KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "<i8": ((int,), "an integer, or too large"),
    "<f4": ((int, float), "a number"),
    "O": ((str,), "a text"),
}


def _values(place: str, data: Sequence[float | str], dtype: str) -> NDArray[Any]:
    """The values of a tensor in JSON. Raises InvalidField."""
    kind, says = _KINDS[dtype]
    if not all(isinstance(value, kind) for value in data):
        raise InvalidField.of(place, f"has a value that is not {says}")
    with np.errstate(over="ignore"):  # overflow becomes infinity, which is rejected later
        return np.array(data, dtype)


def _unpacked(place: str, data: bytes, dtype: str) -> NDArray[Any]:
    """The values of a binary tensor. Raises InvalidField."""
    if dtype == "O":
        return np.array(_texts(place, data), dtype)
    if len(data) % np.dtype(dtype).itemsize:
        raise InvalidField.of(place, f"has {len(data)} bytes behind the JSON, which are not whole numbers")
    return np.frombuffer(data, dtype)


def _texts(place: str, data: bytes) -> Sequence[str]:
    """Texts in Triton's format: four bytes with the length of each, little-endian, and its UTF-8."""
    texts, at = [], 0
    while at < len(data):
        start = at + 4
        at = start + int.from_bytes(data[at:start], "little")
        if at > len(data):
            raise InvalidField.of(place, "has a text that is longer than its bytes")
        try:
            texts.append(data[start:at].decode())
        except UnicodeDecodeError:
            raise InvalidField.of(place, "has a text that is not valid UTF-8") from None
    return texts
