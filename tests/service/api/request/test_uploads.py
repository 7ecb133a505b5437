import asyncio
import base64
import io
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features
from pydantic import TypeAdapter, ValidationError

from service.api.request.uploads import Fitted, Upload, read_picture
from service.errors import BadRequest, ImageTooLarge, ServiceError, UnsupportedImage
from service.images import Pixels, encode_png
from service.settings import Settings

GREY, COLOUR = (1, 8, 8), (3, 8, 8)
LIMIT = 1_000_000
SETTINGS = Settings(weights_dir=Path(__file__).parent, max_image_bytes=LIMIT, decoders=1)
assert features.check("webp")


def noise(*shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def file_of(image: Image.Image, format_: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=format_, **options)
    return file.getvalue()


def read(data: bytes, shape: tuple[int, int, int] = GREY) -> Fitted:
    return asyncio.run(read_picture("image", data, shape, SETTINGS))


def test_a_png_of_the_models_own_size_comes_out_as_it_is() -> None:
    for channels in (1, 3):
        picture = noise(8, 8, channels)
        fitted = read(encode_png(picture), (channels, 8, 8))
        np.testing.assert_array_equal(fitted.pixels, picture)
        assert (fitted.alpha, fitted.warnings) == (None, ())


def test_webp_and_jpeg_are_read() -> None:
    smooth = Image.fromarray(np.linspace(0, 255, 64).reshape(8, 8).astype(np.uint8))
    for format_, options in (("WEBP", {"lossless": True}), ("WEBP", {"quality": 95}), ("JPEG", {"quality": 98})):
        fitted = read(file_of(smooth, format_, **options))
        assert np.abs(fitted.pixels[:, :, 0].astype(int) - np.asarray(smooth)).max() <= 12


def test_another_size_is_resized_with_a_warning() -> None:
    fitted = read(encode_png(np.full((30, 50, 3), (200, 100, 0), np.uint8)))
    assert fitted.pixels.shape == (8, 8, 1)
    assert np.unique(fitted.pixels).tolist() == [round(0.299 * 200 + 0.587 * 100)]
    assert fitted.warnings == ("image: resized from 50 x 30 to 8 x 8 pixels", "image: colours were converted to grey")
    assert read(encode_png(noise(8, 8, 1)), COLOUR).pixels.shape == (8, 8, 3)


@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_greys_that_a_file_holds_as_colours_are_greys(mode: str) -> None:
    grey = Image.fromarray(noise(8, 8, 1)[:, :, 0])
    fitted = read(file_of(grey.convert(mode), "PNG"))
    assert (fitted.warnings, (fitted.pixels[:, :, 0] == np.asarray(grey)).all()) == ((), True)


def test_of_another_shape_the_middle_is_taken() -> None:
    wide = np.zeros((8, 24, 1), np.uint8)
    wide[:, 8:16] = 255
    assert (read(encode_png(wide)).pixels == 255).all()


def test_transparency_becomes_white_and_alpha_is_returned() -> None:
    pixels = np.zeros((8, 8, 4), np.uint8)
    pixels[:4, :, 3] = 255
    fitted = read(file_of(Image.fromarray(pixels), "PNG"), COLOUR)
    assert fitted.alpha is not None
    assert (fitted.alpha[:4] == 255).all()
    assert (fitted.alpha[4:] == 0).all()
    assert (fitted.pixels[:4] == 0).all()
    assert (fitted.pixels[4:] == 255).all()
    assert fitted.warnings == ("image: transparent areas became white",)
    pixels[..., 3] = 255
    assert read(file_of(Image.fromarray(pixels), "PNG"), COLOUR).alpha is None


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_kind_of_png_is_read(mode: str) -> None:
    white = Image.new("L", (8, 8), 255).convert(mode)
    assert (read(file_of(white, "PNG")).pixels == 255).all()


def test_sixteen_bits_become_eight() -> None:
    deep = Image.fromarray(np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16))
    np.testing.assert_array_equal(read(file_of(deep, "PNG")).pixels[:, :, 0], np.asarray(deep) >> 8)


def test_a_photograph_is_turned_as_it_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture = Image.new("L", (8, 8))
    picture.paste(255, (0, 0, 8, 4))
    pixels = read(file_of(picture, "JPEG", exif=exif, quality=100)).pixels
    assert pixels[:4].max() < 10
    assert pixels[4:].min() > 245


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"BM", b"<svg/>", b"\x89PN", b"RIFF\0\0\0\0WAVE", b"II*\0", b"%PDF-1.7", b"\0" * 100]
)
def test_other_formats_are_not_read(data: bytes) -> None:
    with pytest.raises(UnsupportedImage, match="PNG, JPEG, WebP"):
        read(data)


def test_too_many_bytes() -> None:
    with pytest.raises(ImageTooLarge, match=f"{LIMIT} bytes"):
        read(encode_png(noise(8, 8, 1)).ljust(LIMIT + 1, b"\0"))


def big_png() -> bytes:
    data = bytearray(encode_png(noise(8, 8, 1)))
    data[16:24] = struct.pack(">II", 4097, 4096)
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4)
    return bytes(data)


def big_jpeg() -> bytes:
    data = bytearray(file_of(Image.new("L", (8, 8)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    return bytes(data)


def webp(chunk: bytes, head: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 100) + b"WEBP" + chunk + struct.pack("<I", 10) + head + b"\0" * 70


BIG = [
    big_png(),
    big_jpeg(),
    webp(b"VP8X", b"\0\0\0\0" + (16_383).to_bytes(3, "little") * 2),
    webp(b"VP8L", b"\x2f" + (16_382 | 16_382 << 14).to_bytes(4, "little") + b"\0" * 5),
    webp(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383)),
]


@pytest.mark.parametrize("data", BIG, ids=["png", "jpeg", "vp8x", "vp8l", "vp8"])
def test_too_many_pixels_are_refused_by_the_header_alone(data: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"up to 1\.05 megapixels"):
        read(data)


@pytest.mark.parametrize("format_", ["PNG", "JPEG", "WEBP"])
def test_a_file_that_is_cut_short(format_: str) -> None:
    whole = file_of(Image.fromarray(noise(64, 64, 3)), format_)
    for length in (12, len(whole) // 4, len(whole) * 3 // 4):
        with pytest.raises(BadRequest, match="cannot be decoded"):
            read(whole[:length])


@given(
    head=st.sampled_from([encode_png(noise(8, 8, 1))[:40], BIG[3][:16], b"\xff\xd8\xff", b""]),
    tail=st.binary(max_size=200),
)
def test_any_bytes_are_read_or_refused(head: bytes, tail: bytes) -> None:
    with suppress(ServiceError):
        assert read(head + tail).pixels.shape == (8, 8, 1)


@given(position=st.integers(8, 150), byte=st.integers(0, 255), format_=st.sampled_from(["PNG", "JPEG", "WEBP"]))
def test_a_damaged_file_is_read_or_refused(position: int, byte: int, format_: str) -> None:
    data = bytearray(file_of(Image.fromarray(noise(8, 8, 3)), format_))
    data[position % len(data)] = byte
    with suppress(ServiceError):
        assert read(bytes(data)).pixels.shape == (8, 8, 1)


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,", "data:text/html;base64,"])
def test_a_field_holds_base64(prefix: str) -> None:
    png = encode_png(noise(8, 8, 1))
    text = prefix + base64.b64encode(png).decode()
    assert TypeAdapter(Upload).validate_python(text) == png
    assert TypeAdapter(Upload).validate_python(png) == png


@pytest.mark.parametrize("text", ["http://example.org/a.png", "https://127.0.0.1/", "file:///etc/passwd", "ftp://a/b"])
def test_urls_are_not_fetched(text: str) -> None:
    with pytest.raises(ValidationError, match="URLs are not fetched"):
        TypeAdapter(Upload).validate_python(text)


@pytest.mark.parametrize("text", ["ä", "a b", "abc", "!!!!", "data:image/png;base64,@"])
def test_invalid_base64_is_rejected(text: str) -> None:
    with pytest.raises(ValidationError, match="not valid base64"):
        TypeAdapter(Upload).validate_python(text)


def test_base64_may_be_in_lines() -> None:
    """As the command of that name writes it."""
    data = bytes(range(200))
    assert TypeAdapter(Upload).validate_python(base64.encodebytes(data).decode()) == data
    assert TypeAdapter(Upload).validate_python(base64.encodebytes(data).decode().replace("\n", "\r\n")) == data


def test_a_data_uri_without_base64_is_rejected() -> None:
    with pytest.raises(ValidationError, match="base64"):
        TypeAdapter(Upload).validate_python("data:image/svg+xml,<svg/>")
