from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.cli.size import ALL, PICTURE, SHEET, comfortable_scale, is_enlarged


@pytest.mark.parametrize(
    ("fields", "format", "side", "scale"),
    [
        ({}, "png", 28, 9),
        ({"n": 16}, "png", 28, 9),
        ({"n": 64}, "png", 28, 7),
        ({"n": 64}, "gif", 28, 7),
        ({"frames": 10}, "webp", 28, 5),
        ({"frames": 10}, "gif", 28, 9),
        ({"frames": 120}, "gif", 28, 5),
        ({"layout": "film", "steps": 10}, "png", 28, 5),
        ({"layout": "film"}, "gif", 28, 9),
        ({}, "png", 64, 4),
        ({}, "png", 512, 1),
        ({"n": 0}, "png", 28, 9),
        ({"n": "many", "steps": None}, "png", 28, 9),
    ],
)
def test_pictures_are_enlarged_until_they_can_be_seen(
    fields: dict[str, Any], format: str, side: int, scale: int
) -> None:
    assert comfortable_scale(fields, format, side, side) == scale


@given(
    fields=st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(("n", "frames", "steps", "preview_every"), st.integers(-2, 1000) | st.text()),
            "layout": st.just("film"),
        },
    ),
    height=st.integers(1, 1024),
    width=st.integers(1, 1024),
)
def test_no_answer_is_too_large(fields: dict[str, Any], height: int, width: int) -> None:
    scale = comfortable_scale(fields, "png", height, width)
    assert scale == 1 or width * scale <= min(PICTURE, SHEET)
    assert scale == 1 or height * width * scale**2 <= ALL
    assert comfortable_scale(fields, "gif", height, width) >= scale


@pytest.mark.parametrize(
    ("fields", "format", "enlarged"),
    [
        ({}, "png", True),
        ({"scale": 1}, "png", False),
        ({"width": 512}, "png", False),
        ({}, "npy", False),
        ({}, "json", False),
    ],
)
def test_a_size_that_was_named_and_data_for_programs_stay(fields: dict[str, Any], format: str, enlarged: bool) -> None:
    assert is_enlarged(fields, format) == enlarged
