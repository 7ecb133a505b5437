import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import EMOJI
from trainer.compute.draws import Draws
from trainer.data import to_unit_range
from trainer.data.emoji import load_emoji
from trainer.data.strokes import edges, moved, on_strokes, strokes


def draws(seed: int = 0) -> Draws:
    made = Draws(torch.device("cpu"))
    made.restart(seed)
    return made


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return to_unit_range(load_emoji(EMOJI).images)


def square(inside: tuple[float, float, float], outside: tuple[float, float, float]) -> Tensor:
    picture = torch.tensor(outside)[:, None, None].expand(3, 64, 64).clone()
    picture[:, 20:44, 20:44] = torch.tensor(inside)[:, None, None]
    return picture[None]


def test_a_flat_picture_has_no_edges() -> None:
    assert edges(torch.ones(2, 3, 64, 64)).sum() == 0


def test_the_edges_of_a_square_are_its_outline() -> None:
    found = edges(square((-1.0, -1.0, -1.0), (1.0, 1.0, 1.0)))[0, 0]
    assert set(found.flatten().tolist()) == {0.0, 1.0}
    assert found[30, 18:22].sum() in (1, 2)
    assert found[30, 24:40].sum() == 0
    assert found[:18].sum() == 0


def test_colours_of_one_brightness_have_an_edge_between_them() -> None:
    assert edges(square((1.0, -1.0, 0.0), (-1.0, 1.0, 0.0))).sum() > 80


def test_strokes_are_drawn_differently_each_time_and_again_from_the_same_seed(pictures: Tensor) -> None:
    first, again, other = (strokes(pictures, draws(seed)) for seed in (0, 0, 1))
    assert first.shape == (len(pictures), 1, 64, 64)
    assert set(first.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_strokes_follow_the_picture_they_are_drawn_after(pictures: Tensor) -> None:
    drawn = strokes(pictures, draws())
    assert float(on_strokes(pictures, drawn).mean()) > 0.97
    assert float(on_strokes(pictures.flip(0), drawn).mean()) < 0.8


def test_an_empty_drawing_is_always_followed() -> None:
    assert on_strokes(torch.ones(1, 3, 64, 64), torch.zeros(1, 1, 64, 64)).tolist() == [1.0]


def test_an_edge_three_pixels_off_does_not_count() -> None:
    picture = torch.ones(1, 3, 64, 64)
    picture[..., 32:] = -1.0
    (column,) = edges(picture)[0, 0, 10].nonzero()[:1, 0].tolist()
    for off, share in ((2, 1.0), (3, 0.0)):
        drawn = torch.zeros(1, 1, 64, 64)
        drawn[..., column - off] = 1.0
        assert on_strokes(picture, drawn).tolist() == [share]


def test_moved_pictures_have_other_edges_on_white(pictures: Tensor) -> None:
    placed = moved(pictures, draws())
    assert placed.shape == pictures.shape
    assert placed.min() >= -1
    assert placed.max() <= 1 + 1e-6
    assert torch.equal(placed, moved(pictures, draws()))
    assert float(on_strokes(pictures, edges(placed)).mean()) < 0.85
    smaller = moved(torch.full((64, 1, 32, 32), -1.0), draws())
    filled = (1 - smaller).mean(dim=(1, 2, 3)) / 2
    assert 0.2 < filled.min() < 0.4
    assert filled.max() > 0.9


def test_a_share_of_the_pictures_is_moved(pictures: Tensor) -> None:
    assert torch.equal(moved(pictures, draws(), 0.0), pictures)
    many = pictures[:1].expand(200, -1, -1, -1)
    kept = (moved(many, draws(), 0.75) == many).all(dim=3).all(dim=2).all(dim=1)
    assert 30 < kept.sum() < 70
