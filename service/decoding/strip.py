"""Removes everything from a picture file that its pixels do not need, in one pass before any decoder runs.

The decoder never sees text, colour profiles, thumbnails, EXIF or further frames: their errors do not matter, and their
worst cases (compressed text, endless chunks) cannot occur.
"""

import re
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

#: Limit of chunks or segments. Real files have hundreds, or a few thousand if an encoder wrote small pieces.
MAX_PARTS = 65_536

#: Limit of scans of a progressive JPEG. Encoders write about ten; each costs a pass over all pixels.
MAX_SCANS = 64

#: Bytes of EXIF that are searched for the orientation, which is in the first directory.
_EXIF_BYTES = 65_536


class Unreadable(Exception):
    """The file is damaged or not supported; ``str()`` says why."""


class Stripped(NamedTuple):
    """``file`` is the reduced file of format ``kind``, valid if the original was.

    ``width`` and ``height`` are before the rotation by ``orientation``, EXIF's 1 to 8; 1 if there is none.
    """

    kind: str
    width: int
    height: int
    orientation: int
    file: bytes


def sniff(data: bytes) -> str | None:
    """PNG, JPEG or WEBP according to the first bytes, else None."""
    if data.startswith(PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else None


def strip(data: bytes) -> Stripped:
    """``data`` reduced to the pixels of its first picture. Raises Unreadable."""
    kind = sniff(data)
    if kind is None:
        raise Unreadable("it is neither PNG, JPEG nor WebP")
    return {"PNG": _png, "JPEG": _jpeg, "WEBP": _webp}[kind](data)


def orientation_of(exif: bytes) -> int:
    """The orientation, 1 to 8, in EXIF data (a TIFF header and directories); 1 if it is not found."""
    exif = exif.removeprefix(b"Exif\0\0")[:_EXIF_BYTES]
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (at,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, type_, count, value = struct.unpack_from(f"{order}HHIH", exif, entry)
            if tag == 0x0112:
                return value if (type_, count) == (3, 1) and 1 <= value <= 8 else 1
    except struct.error:  # the directory ends outside of the data
        pass
    return 1


# --- PNG (W3C PNG, third edition) ---

#: Bytes of a tRNS chunk by colour type: one grey or one colour. With a palette, it has one byte for each entry.
_TRANSPARENCY = {0: 2, 2: 6}


def _png(data: bytes) -> Stripped:
    if data[12:16] != b"IHDR" or data[8:12] != b"\0\0\0\x0d" or len(data) < 33:
        raise Unreadable("the PNG has no header")
    width, height, _, colour_type = struct.unpack(">IIBB", data[16:26])
    palette, transparency, exif, pixels = b"", b"", b"", []
    for kind, content in png_chunks(data):
        if kind == b"IDAT":
            pixels.append(content)
        elif kind == b"PLTE" and colour_type == 3:
            palette = palette or content
        elif kind == b"tRNS" and _fits_colour_type(content, colour_type, palette):
            transparency = transparency or content
        elif kind == b"eXIf":
            exif = exif or content
    if colour_type == 3 and not palette:
        raise Unreadable("the PNG has no palette")
    needed = {b"PLTE": palette, b"tRNS": transparency}
    chunks = [_png_chunk(kind, content) for kind, content in needed.items() if content]
    chunks += [_png_chunk(b"IDAT", b"".join(pixels)), _png_chunk(b"IEND", b"")]
    return Stripped("PNG", width, height, orientation_of(exif), b"".join((data[:33], *chunks)))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and content of each chunk of a PNG between its header and its end; the last one may be cut short.

    Raises Unreadable after ``MAX_PARTS``.
    """
    at = 33
    for _ in range(MAX_PARTS):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        if len(kind) < 4 or kind == b"IEND":
            return
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length
    raise Unreadable(f"it has more than {MAX_PARTS} chunks")


def _fits_colour_type(transparency: bytes, colour_type: int, palette: bytes) -> bool:
    if colour_type == 3:
        return 0 < len(transparency) <= len(palette) // 3
    return len(transparency) == _TRANSPARENCY.get(colour_type)


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    return b"%b%b%b%b" % (
        len(content).to_bytes(4),
        kind,
        content,
        zlib.crc32(content, zlib.crc32(kind)).to_bytes(4),
    )


# --- JPEG (ITU-T T.81) ---

#: A marker, but not fill bytes, escaped bytes of a scan or restart markers.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS, _TEM, _APP0, _APP1, _APP14 = 0xD8, 0xD9, 0xDA, 0x01, 0xE0, 0xE1, 0xEE
_TABLES = {0xC4, 0xDB, 0xDD}  # Huffman tables, quantisation tables, restart interval
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended and progressive, with Huffman coding
_OTHER_FRAMES = {0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
#: Version 1.1, no density, no thumbnail. Its presence means that the colours are YCbCr.
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"


def _jpeg(data: bytes) -> Stripped:
    parts, size, exif, scans = [b"\xff\xd8"], b"", b"", 0
    for marker, content, entropy in _jpeg_segments(data):
        if marker in _OTHER_FRAMES:
            raise Unreadable("only baseline and progressive JPEG with Huffman coding are supported")
        if marker in _FRAMES:
            if size or len(content) < 6:
                raise Unreadable("the JPEG does not have exactly one frame")
            size = content[1:5]
        scans += marker == _SOS
        if scans > MAX_SCANS:
            raise Unreadable(f"the JPEG has more than {MAX_SCANS} scans")
        if marker == _APP1 and content.startswith(b"Exif\0\0"):
            exif = exif or content
        if (kept := _kept(marker, content)) is not None:
            parts += (b"\xff%c%b" % (marker, (len(kept) + 2).to_bytes(2)), kept, entropy)
        elif marker == _EOI:
            parts.append(b"\xff\xd9")
    if not size:
        raise Unreadable("the JPEG has no frame")
    height, width = struct.unpack(">HH", size)
    return Stripped("JPEG", width, height, orientation_of(exif), b"".join(parts))


def _kept(marker: int, content: bytes) -> bytes | None:
    """The part of a segment that the pixels depend on, or None."""
    if marker in _TABLES or marker in _FRAMES or marker == _SOS:
        return content
    if marker == _APP0 and content.startswith(b"JFIF\0"):
        return _JFIF
    if marker == _APP14 and content.startswith(b"Adobe") and len(content) >= 12:
        return content[:12]  # names the colour space
    return None


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Marker, content, and for a scan the coded data after it, up to the end of the picture."""
    found = _MARKER.search(data, 2)
    for _ in range(MAX_PARTS):
        if found is None:
            return
        marker, at = data[found.end() - 1], found.end()
        if marker == _EOI:
            yield marker, b"", b""
            return
        if marker in (_SOI, _TEM):
            found = _MARKER.search(data, at)
            continue
        end = at + max(2, int.from_bytes(data[at : at + 2]))
        found = _MARKER.search(data, end)
        entropy = data[end : len(data) if found is None else found.start()] if marker == _SOS else b""
        yield marker, data[at + 2 : end], entropy
    raise Unreadable(f"it has more than {MAX_PARTS} segments")


# --- WebP (RFC 9649) ---

_ALPHA, _ANIMATION = 0x10, 0x02


def _webp(data: bytes) -> Stripped:
    kind, head = data[12:16], data[20:30]
    if len(head) < 10 or kind not in (b"VP8X", b"VP8L", b"VP8 "):
        raise Unreadable("the WebP has no header")
    if kind != b"VP8X":
        _, whole = next(_webp_chunks(data))
        return Stripped("WEBP", *_bitstream_size(kind, head), 1, _riff([whole]))
    canvas = int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
    animated = bool(head[0] & _ANIMATION)
    # Of an animation, the first frame is used, at its place on the canvas.
    wanted = {b"ANIM", b"ANMF"} if animated else {b"ALPH", b"VP8 ", b"VP8L"}
    kept: dict[bytes, bytes] = {}
    exif = b""
    for kind, whole in _webp_chunks(data):
        if kind in wanted:
            kept.setdefault(kind, whole)
        elif kind == b"EXIF":
            exif = exif or whole[8:]
    flags = bytes([head[0] & (_ALPHA | _ANIMATION)])
    extended = b"VP8X\x0a\0\0\0%b\0\0\0%b" % (flags, head[4:10])
    return Stripped("WEBP", *canvas, orientation_of(exif), _riff([extended, *kept.values()]))


def _webp_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Type and all bytes of each chunk; the last one may be cut short."""
    at = 12
    for _ in range(MAX_PARTS):
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        if len(kind) < 4:
            return
        end = at + 8 + length + length % 2
        yield kind, data[at:end]
        at = end
    raise Unreadable(f"it has more than {MAX_PARTS} chunks")


def _bitstream_size(kind: bytes, head: bytes) -> tuple[int, int]:
    if kind == b"VP8L":
        bits = int.from_bytes(head[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[6:8], "little") & 0x3FFF, int.from_bytes(head[8:10], "little") & 0x3FFF


def _riff(chunks: list[bytes]) -> bytes:
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + len(body).to_bytes(4, "little") + body
