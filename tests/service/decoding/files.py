"""Picture files for tests, those among them that no encoder writes."""

import io
import struct
import zlib
from typing import Any

import numpy as np
from PIL import Image


def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def file_of(image: Image.Image, format_: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format_, **options)
    return file.getvalue()


def png_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    checked = kind + content
    return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked) if crc is None else crc)


def with_png_chunks(png: bytes, *chunks: bytes) -> bytes:
    """``png`` with ``chunks`` behind its header."""
    return png[:33] + b"".join(chunks) + png[33:]


def with_jpeg_segments(jpeg: bytes, *segments: tuple[int, bytes]) -> bytes:
    """``jpeg`` with segments, a marker and its content each, before all others."""
    told = b"".join(b"\xff%c%b%b" % (marker, (len(content) + 2).to_bytes(2), content) for marker, content in segments)
    return jpeg[:2] + told + jpeg[2:]


def exif(orientation: int, *, byte_order: str = ">", before: bytes = b"", count: int | None = None) -> bytes:
    """A TIFF header and a directory of ``before``, entries of 12 bytes, and the orientation."""
    head = b"MM\0*" if byte_order == ">" else b"II*\0"
    entries = before + struct.pack(f"{byte_order}HHIHH", 0x0112, 3, 1, orientation, 0)
    told = len(entries) // 12 if count is None else count
    return head + struct.pack(f"{byte_order}IH", 8, told) + entries + b"\0" * 4


def webp_chunk(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def riff(*chunks: bytes) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def extended_webp(webp: bytes, flags: int, *more: bytes) -> bytes:
    """A simple WebP of 8 x 8 pixels with a VP8X chunk of ``flags``, and ``more`` chunks before its picture."""
    head = webp_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + (7).to_bytes(3, "little") * 2)
    return riff(head, *more, webp[12:])


def crowded_webp(side: int) -> bytes:
    """A lossless WebP with a set of prefix codes for every 16 pixels: 300 kB that need 400 MB at 1024 x 1024.

    Built by RFC 9649, section 3: a header, an entropy image in which no two pixels are equal, then for each of them
    five codes of one symbol, which take no bits in the picture's own data.
    """
    codes = (side // 4) ** 2
    one_symbol = [(0b0001, 4)]
    every_byte = [(0, 1), (8, 4), *[(0, 3)] * 11, (1, 3), (1, 1), (3, 3), (254, 8)]
    turned = [int(f"{value:08b}"[::-1], 2) for value in range(256)]
    bits = [(side - 1, 14), (side - 1, 14), (0, 4), (0, 1), (0, 1), (1, 1), (0, 3), (0, 1)]
    bits += [*every_byte, *every_byte, *one_symbol * 3]
    bits += [part for code in range(codes) for part in ((turned[code & 255], 8), (turned[code >> 8], 8))]
    bits += one_symbol * 5 * codes
    return riff(webp_chunk(b"VP8L", b"\x2f" + packed(bits)))


def packed(bits: list[tuple[int, int]]) -> bytes:
    """Values of so many bits each, least significant bit first."""
    out, pending, count = bytearray(), 0, 0
    for value, width in bits:
        pending |= value << count
        count += width
        while count >= 8:
            out.append(pending & 255)
            pending >>= 8
            count -= 8
    return bytes([*out, pending & 255])
