import io
import math
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from service.images import (
    MAX_PARAMETERS,
    MAX_WEBP_SIDE,
    MOST_STORED,
    Pixels,
    encode_gif,
    encode_jpeg,
    encode_npy,
    encode_png,
    encode_webp,
    encode_zip,
    enlarge,
    grid_columns,
    png_parameters,
    tile,
    tile_shape,
)

CHANNELS = st.sampled_from([1, 3])


def pixels(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def decode(file: bytes) -> Image.Image:
    return Image.open(io.BytesIO(file))


@given(image=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), CHANNELS)))
def test_png_keeps_every_pixel(image: Pixels) -> None:
    png = decode(encode_png(image))
    assert png.format == "PNG"
    assert png.mode == {1: "L", 3: "RGB"}[image.shape[2]]
    np.testing.assert_array_equal(np.asarray(png).reshape(image.shape), image)


@pytest.mark.parametrize("width", [31, 32, 33])
def test_png_keeps_every_pixel_at_the_size_from_which_it_is_compressed(width: int) -> None:
    image = np.full((MOST_STORED // 32, width - 1, 1), 7, dtype=np.uint8)
    file = encode_png(image)
    np.testing.assert_array_equal(np.asarray(decode(file))[:, :, None], image)
    assert (len(file) > image.size) == (width <= 32)


def test_png_takes_a_view_that_is_not_contiguous() -> None:
    image = pixels(3, 8, 6).transpose(1, 2, 0)
    np.testing.assert_array_equal(np.asarray(decode(encode_png(image))), image)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_other_channel_counts_are_rejected(channels: int) -> None:
    with pytest.raises(ValueError, match=f"1 or 3 channels, not {channels}"):
        encode_png(pixels(2, 2, channels))


@given(count=st.integers(2, 30), height=st.integers(1, 5), width=st.integers(1, 5), channels=CHANNELS)
def test_grid_holds_every_picture_in_reading_order(count: int, height: int, width: int, channels: int) -> None:
    images = list(pixels(count, height, width, channels))
    canvas = tile(images, grid_columns(count))
    assert tile_shape(count, height, width, grid_columns(count)) == canvas.shape[:2]
    columns = math.isqrt(count - 1) + 1
    rows = -(-count // columns)
    assert 0 <= columns - rows <= 1
    assert canvas.shape == (rows * (height + 2) + 2, columns * (width + 2) + 2, channels)
    rest = np.ones(canvas.shape, dtype=bool)
    for index, image in enumerate(images):
        row, column = divmod(index, columns)
        top, left = 2 + row * (height + 2), 2 + column * (width + 2)
        np.testing.assert_array_equal(canvas[top : top + height, left : left + width], image)
        rest[top : top + height, left : left + width] = False
    assert (canvas[rest] == 128).all()


def test_strip_is_one_row() -> None:
    images = list(pixels(5, 4, 3, 1))
    row = tile(images, len(images))
    assert row.shape == (4 + 4, 5 * (3 + 2) + 2, 1)
    np.testing.assert_array_equal(row[2:6, 2 + 4 * 5 : 5 + 4 * 5], images[4])


def test_single_picture_gets_no_border() -> None:
    images = list(pixels(1, 4, 3, 3))
    np.testing.assert_array_equal(tile(images, 1), images[0])
    assert tile_shape(1, 5, 3, 1) == (5, 3)


def test_enlarged_picture_is_made_of_squares() -> None:
    image = pixels(2, 3, 3)
    large = enlarge(image, 4)
    assert large.shape == (8, 12, 3)
    for offset in range(4):
        np.testing.assert_array_equal(large[offset::4, offset::4], image)
    np.testing.assert_array_equal(enlarge(image, 1), image)


def test_gif_holds_its_frames() -> None:
    frames = np.stack([np.full((4, 5, 1), level, dtype=np.uint8) for level in (0, 90, 180, 255)])
    gif = decode(encode_gif(frames, fps=10))
    assert gif.format == "GIF"
    assert getattr(gif, "n_frames") == len(frames)  # noqa: B009 - not every format's image has it
    for index, frame in enumerate(frames):
        gif.seek(index)
        assert gif.info["duration"] == 100
        np.testing.assert_array_equal(np.asarray(gif.convert("L"))[:, :, np.newaxis], frame)


def test_colour_gif_holds_its_colours() -> None:
    frames = np.zeros((2, 4, 4, 3), dtype=np.uint8)
    frames[0, :, :, 0] = frames[1, :, :, 2] = 255
    gif = decode(encode_gif(frames, fps=10))
    for index, frame in enumerate(frames):
        gif.seek(index)
        np.testing.assert_array_equal(np.asarray(gif.convert("RGB")), frame)


@pytest.mark.parametrize("channels", [1, 3])
def test_gif_has_as_many_frames_as_were_given_however_equal_they_are(channels: int) -> None:
    one, other = pixels(6, 5, channels, seed=1), pixels(6, 5, channels, seed=2)
    corner = one.copy()
    corner[4:, 3:] = other[4:, 3:]
    frames = np.stack([one, one, one, corner, corner, other, one, one])
    gif = decode(encode_gif(frames, fps=20))
    assert getattr(gif, "n_frames") == len(frames)  # noqa: B009 - not every format's image has it
    for index, frame in enumerate(frames):
        gif.seek(index)
        assert gif.info["duration"] == 50
        np.testing.assert_array_equal(np.asarray(gif.convert("L" if channels == 1 else "RGB")).reshape(6, 5, -1), frame)
    alone = decode(encode_gif(frames[:1], fps=20))
    assert (getattr(alone, "n_frames"), alone.info["duration"]) == (1, 50)  # noqa: B009


@pytest.mark.parametrize(("fps", "milliseconds"), [(1, 1000), (8, 120), (30, 30), (50, 20), (1000, 20)])
def test_gif_frames_last_whole_hundredths_and_at_least_two(fps: float, milliseconds: int) -> None:
    gif = decode(encode_gif(pixels(2, 4, 4, 1), fps=fps))
    assert gif.info["duration"] == milliseconds


def test_gif_repeats_for_ever() -> None:
    assert decode(encode_gif(pixels(2, 4, 4, 1), fps=5)).info["loop"] == 0


@given(images=hnp.arrays(np.uint8, hnp.array_shapes(min_dims=4, max_dims=4, max_side=4)))
def test_npy_keeps_the_array(images: Pixels) -> None:
    loaded = np.load(io.BytesIO(encode_npy(images)), allow_pickle=False)
    assert loaded.dtype == np.uint8
    np.testing.assert_array_equal(loaded, images)


def test_npy_never_pickles() -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        encode_npy(np.array([{"any": "object"}], dtype=object))


@given(
    text=st.text(min_size=1, max_size=60),
    image=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.just(4), CHANNELS)),
)
def test_a_png_carries_text_that_pillow_reads_too(text: str, image: Pixels) -> None:
    data = encode_png(image, text.encode(errors="ignore"))
    if text.encode(errors="ignore"):
        assert png_parameters(data) == text.encode(errors="ignore")
    png = decode(data)
    np.testing.assert_array_equal(np.asarray(png).reshape(image.shape), image)
    if "\0" not in text:
        assert png.info.get("parameters", "") == text.encode(errors="ignore").decode()


@given(data=st.binary(max_size=100))
def test_text_is_looked_for_in_any_bytes(data: bytes) -> None:
    assert png_parameters(data) is None
    whole = encode_png(pixels(3, 3, 1))
    assert png_parameters(whole + data) is None
    assert png_parameters(whole[:33] + data) is None


def test_text_is_bounded() -> None:
    image = pixels(2, 2, 1)
    assert png_parameters(encode_png(image, b"x" * (MAX_PARAMETERS - 100))) is not None
    assert png_parameters(encode_png(image, b"x" * (MAX_PARAMETERS + 1))) is None


@given(image=hnp.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), CHANNELS)))
def test_webp_keeps_every_pixel(image: Pixels) -> None:
    webp = decode(encode_webp(image))
    assert webp.format == "WEBP"
    shown = np.asarray(webp.convert("L" if image.shape[2] == 1 else "RGB")).reshape(image.shape)
    np.testing.assert_array_equal(shown, image)


def test_webp_has_the_most_pixels_a_side_that_it_is_said_to_have() -> None:
    assert decode(encode_webp(pixels(1, MAX_WEBP_SIDE, 1))).size == (MAX_WEBP_SIDE, 1)
    with pytest.raises(ValueError, match="encoding"):
        encode_webp(pixels(1, MAX_WEBP_SIDE + 1, 1))


def test_jpeg_keeps_colours_apart() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, ::2, 0], image[:, 1::2, 2] = 255, 255  # columns of red and blue, which sub-sampling would mix
    shown = np.asarray(decode(encode_jpeg(image, 100)))
    assert np.abs(shown.astype(int) - image).max() < 12


def test_zip_is_the_same_for_the_same_files() -> None:
    files = {"a.txt": b"a" * 100, "b": b""}
    archive = encode_zip(files)
    assert archive == encode_zip(files)
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert {name: opened.read(name) for name in opened.namelist()} == files
