"""What is decoded from one file; how pictures are fitted is in tests/service/api/test_uploads.py."""

import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from service.decoding.fit import Decoded, TooManyPixels, decode
from service.decoding.strip import Unreadable
from tests.service.decoding.files import exif, extended_webp, file_of, noise, webp_chunk, with_jpeg_segments

MOST = 1_050_000


def small(data: bytes, channels: int = 3) -> Decoded:
    return decode(data, channels, 8, 8, MOST)


def pixels(data: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.frombuffer(small(data).pixels, np.uint8).reshape(8, 8, 3)


HALVES = Image.new("RGB", (8, 8))
HALVES.paste((255, 255, 255), (0, 0, 8, 4))


def test_a_photograph_with_one_mistyped_tag_is_turned() -> None:
    mistyped = struct.pack(">HHIHH", 0x010F, 5, 1, 0xFFFF, 0xFFFF)
    data = with_jpeg_segments(file_of(HALVES, "JPEG", quality=100), (0xE1, b"Exif\0\0" + exif(3, before=mistyped)))
    assert pixels(data)[:4].max() < 10
    assert pixels(data)[4:].min() > 245


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_turns_it(orientation: int) -> None:
    corner = Image.new("RGB", (8, 8))
    corner.paste((255, 255, 255), (0, 0, 6, 3))
    webp = file_of(corner, "WEBP", lossless=True)
    turned = pixels(extended_webp(webp, 8, webp_chunk(b"EXIF", exif(orientation))))
    turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
    expected = corner if orientation == 1 else corner.transpose(Image.Transpose(turn[orientation]))
    np.testing.assert_array_equal(turned, np.asarray(expected))


def test_a_turned_picture_has_the_size_that_is_seen() -> None:
    data = with_jpeg_segments(file_of(Image.new("RGB", (16, 8)), "JPEG"), (0xE1, b"Exif\0\0" + exif(6)))
    assert small(data).size == (8, 16)


def test_the_first_frame_of_an_animation_is_shown_in_its_place() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for format_ in ("WEBP", "PNG"):
        data = file_of(frames[0], format_, save_all=True, append_images=frames[1:], lossless=True)
        assert (pixels(data) == (255, 0, 0)).all()


@pytest.mark.parametrize("size", [(1026, 1024), (1, MOST + 1), (MOST + 1, 1)])
def test_too_many_pixels_are_seen_in_the_header(size: tuple[int, int]) -> None:
    head = struct.pack(">IIBBBBB", *size, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + head
    with pytest.raises(TooManyPixels) as failure:
        small(data + zlib.crc32(b"IHDR" + head).to_bytes(4))
    assert failure.value.size == size


def test_headers_that_contradict_each_other() -> None:
    data = extended_webp(file_of(Image.new("RGB", (64, 64)), "WEBP"), 0)
    with pytest.raises(Unreadable):
        small(data)


def test_a_picture_is_resized_before_it_is_composited() -> None:
    """No array and no copy of all pixels is made in Python's memory; Pillow's own is bounded by the worker."""
    data = file_of(Image.new("RGBA", (1024, 1024), (255, 0, 0, 128)), "PNG")
    tracemalloc.start()
    try:
        assert np.frombuffer(small(data).pixels, np.uint8).tolist() == [255, 127, 127] * 64
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_transparent_colours_do_not_bleed_into_what_is_resized() -> None:
    picture = np.zeros((16, 16, 4), np.uint8)
    picture[:, :8] = 255
    picture[:, 8:, 0] = 200  # a red that is fully transparent
    assert (pixels(file_of(Image.fromarray(picture), "PNG")) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_an_interlaced_or_plain_png_of_every_kind_is_read(mode: str) -> None:
    data = file_of(Image.new("L", (24, 24), 255).convert("I").point(lambda v: v * 257).convert("I;16")
                   if mode == "I;16" else Image.new("L", (24, 24), 255).convert(mode), "PNG")  # fmt: skip
    assert np.frombuffer(small(data, 1).pixels, np.uint8).tolist() == [255] * 64


def test_noise_is_no_grey() -> None:
    assert small(file_of(Image.fromarray(noise(8, 8, 3)), "PNG"), 1).coloured
    assert not small(file_of(Image.fromarray(noise(8, 8, 1)[:, :, 0]), "PNG"), 1).coloured
