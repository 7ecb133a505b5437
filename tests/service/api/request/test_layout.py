"""Films: pictures on their way, in one image or as an animation."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from service.api.request.layout import Layout, layout_of
from service.api.request.negotiation import PNG, WEBP
from service.api.request.schemas import GenerateRequest
from service.engine.rows import Film
from service.errors import InvalidField
from service.images import Pixels
from service.settings import Settings
from tests.service.api.conftest import GIF, assert_other, assert_same, decode, pictures, refused

FIELDS = {"seed": 3, "steps": 6, "solver": "ddim", "class_label": 1}


def tile(image: Pixels, row: int, column: int) -> Pixels:
    """Of an image of 8 x 8 pictures with gaps."""
    return image[2 + 10 * row : 10 + 10 * row, 2 + 10 * column : 10 + 10 * column]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"n": 5}, Layout(5, 3, 2)),
        ({"n": 5, "layout": "strip"}, Layout(5, 5, 2)),
        ({"n": 5, "layout": "sprite"}, Layout(5, 3, 0)),
        ({"n": 2, "layout": "film", "preview_every": 5}, Layout(2 * 2 * 9, 9, 2, Film(5, "both"))),
        ({"layout": "film", "preview_kind": "x0"}, Layout(11, 11, 2, Film(4, "x0"))),
    ],
)
def test_a_layout_holds_all_that_rendering_needs(fields: dict[str, Any], expected: Layout) -> None:
    assert layout_of(GenerateRequest(**fields), PNG, (1, 8, 8), 40, Settings()) == expected


def test_every_problem_of_a_layout_is_reported_once() -> None:
    with pytest.raises(InvalidField) as raised:
        layout_of(GenerateRequest(n=64, layout="list", scale=32, fps=5), WEBP, (1, 64, 64), 0, Settings())
    assert [problem.pointer for problem in raised.value.problems] == ["#/scale", "#/layout", "#/fps"]


def test_a_film_is_a_row_for_each_kind_and_ends_with_the_picture(tasks: TestClient) -> None:
    body = {**FIELDS, "layout": "film", "preview_every": 2, "n": 2}
    film = decode(tasks.post("/generate/ddpm", json=body).content)
    assert film.shape == (4 * 10 + 2, 4 * 10 + 2, 1)
    made = pictures(tasks, "ddpm", **FIELDS, n=2)
    for picture in range(2):
        for kind in range(2):
            assert_same(tile(film, 2 * picture + kind, 3), made[picture])
        assert_other(tile(film, 2 * picture, 0), tile(film, 2 * picture, 1))
    # The first of x_t is the noise itself.
    one = decode(tasks.post("/generate/ddpm", json={**FIELDS, "layout": "film", "preview_kind": "xt"}).content)
    assert one.shape == (12, 7 * 10 + 2, 1)
    assert_same(tile(one, 0, 0), tile(film, 0, 0))
    x0 = decode(tasks.post("/generate/ddpm", json={**FIELDS, "layout": "film", "preview_kind": "x0"}).content)
    assert_same(tile(x0, 0, 5), tile(x0, 0, 6))  # the last prediction is the picture


def test_a_film_plays_all_kinds_side_by_side(tasks: TestClient) -> None:
    body = {**FIELDS, "layout": "film", "preview_every": 3, "fps": 20}
    strip = decode(tasks.post("/generate/ddpm", json={**body, "fps": None}).content)
    response = tasks.post("/generate/ddpm", json=body, headers=GIF)
    with Image.open(io.BytesIO(response.content)) as animation:
        assert getattr(animation, "n_frames", 1) == 3
        for step in range(3):
            animation.seek(step)
            frame = np.asarray(animation.convert("L"), np.uint8)[..., None]
            assert frame.shape == (12, 22, 1)
            for kind in range(2):
                assert_same(tile(frame, 0, kind), tile(strip, kind, step))


def test_a_film_is_the_same_from_a_job(tasks: TestClient) -> None:
    body = {**FIELDS, "layout": "film"}
    accepted = tasks.post("/generate/ddpm", json=body, headers={"Prefer": "respond-async"})
    result = tasks.get(accepted.headers["location"] + "/result", headers={"Prefer": "wait=30"})
    assert_same(decode(result.content), decode(tasks.post("/generate/ddpm", json=body).content))


def test_the_parameters_of_a_film_reproduce_it(tasks: TestClient) -> None:
    png = tasks.post("/generate/ddpm", json={"layout": "film"}).content
    params = tasks.post("/inspect", content=png).json()["params"]
    assert params.items() >= {"layout": "film", "preview_every": 1, "preview_kind": "both"}.items()
    assert_same(decode(tasks.post("/generate/ddpm", json=params).content), decode(png))


@pytest.mark.parametrize("format_", ["json", "npy", "zip"])
def test_a_film_needs_an_image_format(tasks: TestClient, format_: str) -> None:
    response = tasks.post("/generate/ddpm", json={"layout": "film", "format": format_})
    assert "cannot show a film" in refused(response, "#/layout")


def test_the_size_of_a_film_is_bounded(tasks: TestClient) -> None:
    body = {"layout": "film", "steps": 1000, "preview_every": 1, "n": 20, "format": "gif"}
    assert "megapixels" in refused(tasks.post("/generate/ddpm", json=body), "#/scale")
    assert "1 or more" in refused(
        tasks.post("/generate/ddpm", json={"layout": "film", "preview_every": 0}), "#/preview_every"
    )


def test_frames_of_a_path_have_a_film_too(tasks: TestClient) -> None:
    body = {"model": "ddpm", "frames": 3, "layout": "film", "steps": 4, "preview_kind": "x0"}
    assert decode(tasks.post("/interpolate", json=body).content).shape == (3 * 10 + 2, 5 * 10 + 2, 1)
