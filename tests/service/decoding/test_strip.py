import io
import re
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from service.decoding.strip import MAX_PARTS, MAX_SCANS, Unreadable, orientation_of, sniff, strip
from tests.service.decoding.files import (
    exif,
    extended_webp,
    file_of,
    noise,
    png_chunk,
    riff,
    webp_chunk,
    with_jpeg_segments,
    with_png_chunks,
)

PICTURE = Image.fromarray(noise(8, 8, 3))
PNG, JPEG, WEBP = (file_of(PICTURE, format_) for format_ in ("PNG", "JPEG", "WEBP"))


def pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))


FILES = {
    **{f"png {mode}": file_of(PICTURE.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "png with a transparent colour": file_of(PICTURE, "PNG", transparency=tuple(noise(8, 8, 3)[0, 0].tolist())),
    "png with a transparent grey": file_of(PICTURE.convert("L"), "PNG", transparency=7),
    "png with a transparent palette": file_of(PICTURE.convert("P"), "PNG", transparency=bytes(range(9))),
    "jpeg": JPEG,
    "jpeg grey": file_of(PICTURE.convert("L"), "JPEG"),
    "jpeg cmyk": file_of(PICTURE.convert("CMYK"), "JPEG"),
    "jpeg progressive": file_of(PICTURE, "JPEG", progressive=True),
    "jpeg with restarts": file_of(Image.fromarray(noise(64, 64, 3)), "JPEG", restart_marker_blocks=1),
    "jpeg of rgb": file_of(PICTURE, "JPEG", keep_rgb=True),
    "webp": WEBP,
    "webp lossless": file_of(PICTURE, "WEBP", lossless=True),
    "webp with alpha": file_of(Image.fromarray(noise(8, 8, 4)), "WEBP", quality=80),
    "webp extended": extended_webp(WEBP, 0),
    "webp of frames": file_of(PICTURE, "WEBP", save_all=True, append_images=[Image.new("RGB", (8, 8))]),
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_the_pixels_stay_and_the_size_is_the_headers(data: bytes) -> None:
    found = strip(data)
    np.testing.assert_array_equal(pixels(found.file), pixels(data))
    assert (found.width, found.height) == Image.open(io.BytesIO(data)).size
    assert found.orientation == 1
    assert strip(found.file).file == found.file


JUNK = b"\x81damaged\xff"
#: All that the formats can hold beside pixels, none of it as it should be; and what a decoder unpacks or follows.
METADATA = {
    "png": [
        with_png_chunks(PNG, png_chunk(kind, JUNK))
        for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"gAMA", b"cHRM", b"sRGB", b"sBIT", b"pHYs", b"tIME",
                     b"hIST", b"bKGD", b"sPLT", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"cICP", b"PLTE", b"prVt")
    ] + [
        with_png_chunks(PNG, png_chunk(b"tEXt", b"a\0b", crc=0)),
        with_png_chunks(PNG, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(70_000_000)))),
        with_png_chunks(PNG, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(70_000_000)))),
        with_png_chunks(PNG, *[png_chunk(b"tEXt", b"a\0" + b"b" * 1000)] * 100),
        PNG + JUNK * 100,
    ],
    "jpeg": [
        with_jpeg_segments(JPEG, (marker, content))
        for marker in (*range(0xE0, 0xF0), 0xFE)
        for content in (b"", JUNK, b"JFIF\0", b"Exif\0\0" + JUNK, b"ICC_PROFILE\0\1\2", b"MPF\0" + exif(1), b"Adobe",
                        b"Photoshop 3.0\0" + JUNK, b"http://ns.adobe.com/xap/1.0/\0" + JUNK)
    ] + [JPEG + JUNK * 100, JPEG[:2] + b"\xff\xff\xff" + JPEG[2:], JPEG[:20] + b"\0junk" + JPEG[20:]],
    "webp": [
        WEBP + JUNK,
        extended_webp(WEBP, 0x2C, *(webp_chunk(kind, JUNK) for kind in (b"ICCP", b"EXIF", b"XMP ", b"junk"))),
    ],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "plain"), [("png", PNG), ("jpeg", JPEG), ("webp", WEBP)])
def test_metadata_decides_nothing(kind: str, plain: bytes) -> None:
    for data in METADATA[kind]:
        np.testing.assert_array_equal(pixels(strip(data).file), pixels(plain))


#: An ASCII entry that says that it is a fraction, at the end of the world; and one of no type.
MISTYPED = b"\x01\x0f\0\x05\xff\xff\xff\xff\xff\xff\xff\xff" + b"\x01\x10\x77\x77\0\0\0\1\0\0\0\0"


@pytest.mark.parametrize("byte_order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_found_in_every_format_beside_damaged_entries(orientation: int, byte_order: str) -> None:
    before = MISTYPED if byte_order == ">" else b""
    data = exif(orientation, byte_order=byte_order, before=before)
    assert strip(with_jpeg_segments(JPEG, (0xE1, b"Exif\0\0" + data))).orientation == orientation
    assert strip(with_png_chunks(PNG, png_chunk(b"eXIf", data))).orientation == orientation
    assert strip(extended_webp(WEBP, 8, webp_chunk(b"EXIF", data))).orientation == orientation
    assert strip(extended_webp(WEBP, 8, webp_chunk(b"EXIF", b"Exif\0\0" + data))).orientation == orientation


@pytest.mark.parametrize(
    "data",
    [b"", b"MM\0*", b"II*\0\0\0", exif(0), exif(9), exif(6)[:-8], exif(6, before=b"\0" * 12, count=1), JUNK * 20],
)
def test_an_orientation_that_is_none_is_upright(data: bytes) -> None:
    assert orientation_of(data) == 1


@given(data=st.binary(max_size=60), count=st.integers(0, 65_535))
def test_any_exif_is_searched(data: bytes, count: int) -> None:
    assert 1 <= orientation_of(exif(6, before=data[: len(data) // 12 * 12], count=count)) <= 8
    assert 1 <= orientation_of(b"II*\0" + data) <= 8


def test_a_jpeg_has_a_bounded_number_of_scans() -> None:
    """Each costs a pass over the picture, however short it is: 34 bytes took a millisecond a megapixel."""
    progressive = strip(file_of(PICTURE, "JPEG", progressive=True)).file
    last = progressive[progressive.rindex(b"\xff\xda") : -2]
    scans = len(re.findall(rb"\xff\xda", progressive))
    assert strip(progressive[:-2] + last * (MAX_SCANS - scans) + b"\xff\xd9")
    with pytest.raises(Unreadable, match=f"more than {MAX_SCANS} scans"):
        strip(progressive[:-2] + last * (MAX_SCANS - scans + 1) + b"\xff\xd9")


@pytest.mark.parametrize(
    "data",
    [
        with_png_chunks(PNG, png_chunk(b"tEXt", b"") * MAX_PARTS),
        with_jpeg_segments(JPEG, *[(0xFE, b"")] * MAX_PARTS),
        JPEG[:2] + b"\xff\x01" * MAX_PARTS + JPEG[2:],
        extended_webp(WEBP, 0, webp_chunk(b"junk", b"") * MAX_PARTS),
    ],
    ids=["png", "jpeg", "jpeg without lengths", "webp"],
)
def test_a_file_has_a_bounded_number_of_parts(data: bytes) -> None:
    with pytest.raises(Unreadable, match=f"more than {MAX_PARTS}"):
        strip(data)


@pytest.mark.parametrize("marker", [0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF])
def test_of_jpeg_other_codings_are_not_read(marker: int) -> None:
    with pytest.raises(Unreadable, match="baseline and progressive"):
        strip(JPEG.replace(b"\xff\xc0", b"\xff%c" % marker))


@pytest.mark.parametrize(
    "data",
    [
        PNG[:20],
        PNG[:12] + b"IDAT" + PNG[16:],
        JPEG[:2] + JPEG[-2:],
        JPEG.replace(b"\xff\xc0", b"\xff\xdb"),
        with_jpeg_segments(JPEG, (0xC0, b"\x08\0\x08\0\x08\x01\x01\x11\0")),
        re.sub(rb"(?s)\0\0..PLTE.*tRNS", b"\0\0\0\0tRNS", file_of(PICTURE.convert("P"), "PNG", transparency=b"\0")),
        riff(webp_chunk(b"ALPH", b"0" * 20)),
        b"GIF89a",
    ],
)
def test_a_file_without_what_its_format_needs(data: bytes) -> None:
    with pytest.raises(Unreadable):
        strip(data)


def test_a_file_keeps_only_the_parts_that_make_pixels() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("a", "b", zip=True)
    many = file_of(Image.fromarray(noise(300, 300, 3)), "PNG", pnginfo=text, icc_profile=b"x" * 999, exif=exif(6))
    kinds = re.findall(rb"IHDR|IDAT|IEND|tEXt|zTXt|iCCP|eXIf", strip(many).file)
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]


@given(kind=st.sampled_from([PNG, JPEG, WEBP, FILES["webp of frames"]]), position=st.integers(0, 200), tail=st.binary())
def test_any_bytes_are_stripped_or_refused(kind: bytes, position: int, tail: bytes) -> None:
    data = kind[:position] + tail + kind[position + len(tail) :]
    try:
        found = strip(data)
    except Unreadable:
        return
    assert found.kind == sniff(data)
    assert len(found.file) <= len(data) + 100
