"""JSON and binary parts as one piece of bytes: the length of the JSON (4 bytes), the JSON, the parts.

The JSON is [head, lengths of the parts].
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import from_json, to_json

_LENGTH = 4


def pack(head: object, parts: Sequence[bytes] = ()) -> bytes:
    """``head``, any JSON value, and ``parts``."""
    text = to_json([head, [len(part) for part in parts]])
    return b"".join([len(text).to_bytes(_LENGTH, "big"), text, *parts])


def unpack(packed: bytes) -> tuple[Any, list[bytes]]:
    """Head and parts of ``pack``."""
    start = _LENGTH + int.from_bytes(packed[:_LENGTH], "big")
    head, lengths = from_json(packed[_LENGTH:start])
    parts = []
    for length in lengths:
        parts.append(packed[start : start + length])
        start += length
    return head, parts
