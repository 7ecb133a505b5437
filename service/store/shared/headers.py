"""HTTP headers as bytes, whatever bytes they hold."""

from base64 import b64decode, b64encode
from collections.abc import Sequence

from pydantic_core import from_json, to_json


def pack_headers(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """``headers`` as JSON."""
    return to_json([[b64encode(part).decode() for part in header] for header in headers])


def unpack_headers(packed: bytes) -> Sequence[tuple[bytes, bytes]]:
    """The headers of ``pack_headers``."""
    return [(b64decode(name), b64decode(value)) for name, value in from_json(packed)]
