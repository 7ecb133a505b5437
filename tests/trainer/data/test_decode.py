import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from trainer.data import decode
from trainer.data.decode import read_picture
from trainer.data.essential import essential


def read(path: Path, size: int = 28, channels: int = 3) -> Tensor:
    picture = read_picture(path, size, channels)
    with Image.open(path) as stored:
        assert (picture.width, picture.height) == stored.size
    return picture.pixels


def colour_of(picture: Tensor) -> list[float]:
    """The mean of each channel."""
    return [float(mean) for mean in picture.float().mean(dim=(1, 2))]


def test_see_through_parts_are_white(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28, 4), dtype=np.uint8)
    pixels[:14] = (200, 0, 0, 255)
    image = Image.fromarray(pixels)
    image.save(tmp_path / "rgba.png")
    image.convert("LA").save(tmp_path / "la.png")
    image.save(tmp_path / "palette.gif")
    for name, mode in {"rgba.png": "RGBA", "la.png": "LA", "palette.gif": "P"}.items():
        with Image.open(tmp_path / name) as stored:
            assert stored.mode == mode
        picture = read(tmp_path / name)
        assert (picture[:, -1] == 255).all(), name
        assert (picture[1, 0] < 100).all(), name


def test_sixteen_bits_are_scaled_not_cut_off(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, 28, dtype=np.uint16)[None].repeat(28, axis=0)
    Image.fromarray(levels).save(tmp_path / "deep.png")
    Image.fromarray(levels).save(tmp_path / "deep.tif")
    (tmp_path / "deep.pgm").write_bytes(b"P5 28 28 65535\n" + levels.astype(">u2").tobytes())
    for name in ("deep.png", "deep.tif", "deep.pgm"):
        assert read(tmp_path / name, channels=1)[0, 0].tolist() == [round(level / 257) for level in levels[0].tolist()]


def test_cmyk_becomes_its_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (28, 28), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    red, green, blue = colour_of(read(tmp_path / "print.jpg"))
    assert red > 200 > 60 > max(green, blue)


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[:14] = 255
    tags = Image.Exif()
    tags[0x0112] = 6  # the camera was held on its side: the stored top is the right
    Image.fromarray(pixels).save(tmp_path / "side.png", exif=tags)
    picture = read(tmp_path / "side.png", channels=1)[0]
    assert (picture[:, 14:] == 255).all()
    assert (picture[:, :14] == 0).all()


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (28, 28), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert colour_of(read(tmp_path / "moving.gif")) == [255, 0, 0]


def test_the_centre_is_kept(tmp_path: Path) -> None:
    picture = np.zeros((30, 90, 3), dtype=np.uint8)
    picture[:, 30:60] = 255
    Image.fromarray(picture).save(tmp_path / "wide.png")
    assert read(tmp_path / "wide.png", channels=1).float().mean() > 250


def test_a_large_jpeg_is_what_it_would_be_without_the_short_cut(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 1024, dtype=np.uint8)[None].repeat(1024, axis=0)
    Image.fromarray(ramp).save(tmp_path / "large.jpg", quality=95)
    Image.fromarray(ramp).save(tmp_path / "large.png")
    fast, whole = (read(tmp_path / name, channels=1).float() for name in ("large.jpg", "large.png"))
    assert (fast - whole).abs().max() <= 3


# Damaged metadata


def tagged(path: Path, image: Image.Image, **options: Any) -> bytes:
    """A picture to be turned by a quarter, with other tags."""
    tags = Image.Exif()
    tags[0x0112], tags[0x010F] = 6, "somebody"
    image.save(path, exif=tags, **options)
    return path.read_bytes()


@pytest.fixture
def half() -> Image.Image:
    """The top half is white."""
    pixels = np.zeros((28, 28), dtype=np.uint8)
    pixels[:14] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_photo_with_a_mistyped_tag_is_still_turned_upright(tmp_path: Path, half: Image.Image, ending: str) -> None:
    tags = Image.Exif()
    tags[0x0112], tags[0x0131] = 6, "the name of a program"
    whole = tags.tobytes()
    name = whole.index(b"\x01\x31\x00\x02")  # ASCII
    damaged = whole[:name] + b"\x01\x31\x00\x05\x00\x00\x00\x01" + whole[name + 8 :]  # one RATIONAL
    half.save(tmp_path / f"side.{ending}", exif=damaged)
    with Image.open(tmp_path / f"side.{ending}") as stored, pytest.raises(AttributeError):
        ImageOps.exif_transpose(stored)  # writes all tags anew
    picture = read(tmp_path / f"side.{ending}", channels=1)[0].float()
    assert picture[:, 15:].mean() > 250
    assert picture[:, :13].mean() < 5


def chunk(name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return len(data).to_bytes(4, "big") + name + data + checksum.to_bytes(4, "big")


@pytest.mark.parametrize(
    "damaged",
    [
        chunk(b"tEXt", b"Comment\0hello", checksum=0),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(1 << 21))),
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1 << 21))),
        chunk(b"pHYs", b"\0"),
        chunk(b"gAMA", b""),
    ],
    ids=["checksum", "huge profile", "huge text", "short resolution", "no gamma"],
)
def test_damaged_chunks_beside_the_pixels_do_not_matter(tmp_path: Path, half: Image.Image, damaged: bytes) -> None:
    half.save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "damaged.png").write_bytes(whole[:33] + damaged + whole[33:])  # behind the header
    picture = read_picture(tmp_path / "damaged.png", 28, 1)
    assert torch.equal(picture.pixels, read(tmp_path / "whole.png", channels=1))


def test_without_metadata_a_file_has_the_same_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    whole = tagged(tmp_path / "a.png", Image.fromarray(pixels), icc_profile=bytes(100))
    photo = tagged(tmp_path / "a.jpg", Image.fromarray(pixels[..., :3]), icc_profile=bytes(100), comment=b"hello")
    for name, payload in (("b.png", whole), ("b.jpg", photo)):
        (tmp_path / name).write_bytes(essential(payload))
        assert b"somebody" not in essential(payload)
        with Image.open(tmp_path / name) as bare, Image.open(tmp_path / name.replace("b", "a")) as full:
            assert bare.tobytes() == full.tobytes()
            assert len(bare.getexif()) == 0


@pytest.mark.parametrize("ending", ["png", "jpg", "gif"])
def test_cut_files_are_parsed_to_their_end(tmp_path: Path, half: Image.Image, ending: str) -> None:
    whole = tagged(tmp_path / f"a.{ending}", half)
    for length in range(0, len(whole), 7):
        assert len(essential(whole[:length])) <= length


def test_what_would_start_another_program_is_not_read(tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript, by the content of a file and not by its name."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n")
    with pytest.raises(UnidentifiedImageError):
        read_picture(tmp_path / "a.png", 28, 1)


def test_large_pictures_take_turns(tmp_path: Path, half: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight of the largest at once would not fit into memory."""
    half.save(tmp_path / "a.png")
    inside: list[bool] = []
    square = decode._square

    def watched(*arguments: Any) -> Tensor:
        inside.append(decode._large.locked())
        return square(*arguments)

    monkeypatch.setattr(decode, "_square", watched)
    read_picture(tmp_path / "a.png", 28, 1)
    monkeypatch.setattr(decode, "LARGE_PIXELS", 28 * 28 - 1)
    read_picture(tmp_path / "a.png", 28, 1)
    assert inside == [False, True]
