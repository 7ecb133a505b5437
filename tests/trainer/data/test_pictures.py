from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainer.data.pictures import read_pictures, told


def read(path: Path, size: int = 28, channels: int = 3) -> Tensor:
    pictures = read_pictures([path], size, channels)
    assert pictures.broken == ()
    return pictures.images[0]


def colour_of(picture: Tensor) -> list[float]:
    """The mean of each channel."""
    return [float(mean) for mean in picture.float().mean(dim=(1, 2))]


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


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
    for name in ("deep.png", "deep.tif"):
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


def test_files_that_are_no_pictures_are_told_and_the_others_keep_their_places(tmp_path: Path) -> None:
    good = noise(40, 40, 3)
    Image.fromarray(good).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    contents = {
        "empty.png": b"",
        "text.jpg": b"hello",
        "cut.png": whole[: len(whole) // 2],
        "flipped.png": whole[:60] + bytes(40) + whole[100:],
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "away.png").symlink_to(tmp_path / "nowhere.png")
    Image.new("F", (40, 40)).save(tmp_path / "float.tif")
    names = ["empty.png", "good.png", "text.jpg", "cut.png", "flipped.png", "away.png", "float.tif", "good.png"]
    pictures = read_pictures([tmp_path / name for name in names], 28, 3)
    assert pictures.kept == (1, 7)
    assert torch.equal(pictures.images[0], pictures.images[1])
    assert torch.equal(pictures.images[0], read(tmp_path / "good.png"))
    told_names, reasons = zip(*(each.removesuffix(")").split(" (", 1) for each in pictures.broken), strict=True)
    assert list(told_names) == [name for name in names if name != "good.png"]
    assert reasons[:2] == ("no picture", "no picture")
    assert reasons[-2:] == ("No such file or directory", "pixels of mode F have no known range")


@pytest.mark.parametrize("limit", [100, 250], ids=["far over the limit", "over the limit"])
def test_a_decompression_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    Image.new("L", (20, 20)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    assert read_pictures([tmp_path / "bomb.png"], 8, 1).broken == ("bomb.png (too many pixels)",)


def test_smaller_pictures_are_enlarged_and_told(tmp_path: Path) -> None:
    Image.new("RGB", (40, 20), "red").save(tmp_path / "small.png")
    pictures = read_pictures([tmp_path / "small.png"], 28, 3)
    assert pictures.enlarged == ("small.png",)
    assert colour_of(pictures.images[0]) == [255, 0, 0]


def test_many_names_are_counted() -> None:
    assert told(()) == ""
    assert told([str(n) for n in range(7)], "wrong") == "; 7 wrong: 0, 1, 2, 3, 4 and 2 more"
