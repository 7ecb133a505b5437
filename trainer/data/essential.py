"""Removal of metadata from image files, because decoders fail on damaged text, colour profiles or camera tags."""

from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8"
#: Critical chunks start with a capital letter; of the others only transparency changes pixels.
PNG_KEPT = b"tRNS"
#: JPEG segments APP1 to APP13 and APP15, and comments. APP0 and APP14 define the colour encoding.
JPEG_METADATA = frozenset([*range(0xE1, 0xEE), 0xEF, 0xFE])
JPEG_SCAN = 0xDA


def essential(payload: bytes) -> bytes:
    """``payload`` without metadata if it is a PNG or JPEG that can be parsed, otherwise unchanged."""
    if payload.startswith(PNG_SIGNATURE):
        return PNG_SIGNATURE + b"".join(_png_chunks(payload))
    if payload.startswith(JPEG_SIGNATURE):
        return JPEG_SIGNATURE + b"".join(_jpeg_segments(payload))
    return payload


def _png_chunks(payload: bytes) -> Iterator[bytes]:
    at = len(PNG_SIGNATURE)
    while at < len(payload):
        end = at + 12 + int.from_bytes(payload[at : at + 4], "big")  # length, name, data, checksum
        name = payload[at + 4 : at + 8]
        if name[:1].isupper() or name == PNG_KEPT:
            yield payload[at:end]
        at = end


def _jpeg_segments(payload: bytes) -> Iterator[bytes]:
    """The segments before the first scan without metadata, then the rest of the file."""
    at = len(JPEG_SIGNATURE)
    while len(payload) > at + 4 and payload[at] == 0xFF and payload[at + 1] != JPEG_SCAN:
        end = at + 2 + max(2, int.from_bytes(payload[at + 2 : at + 4], "big"))  # marker, then length and data
        if payload[at + 1] not in JPEG_METADATA:
            yield payload[at:end]
        at = end
    yield payload[at:]
