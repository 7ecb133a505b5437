import math
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.sampling.interpolate import lerp, positions, slerp, walk

SHAPE = (2, 3, 4)
SEEDS = st.integers(0, 1000)
# Multiples of 1/16: t and 1 - t are both exact, so that symmetry holds to the last bit.
FRACTIONS = st.integers(0, 16).map(lambda numerator: numerator / 16)

methods = pytest.mark.parametrize("method", ["linear", "slerp"])


def pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    start, end = torch.randn(2, 1, *SHAPE, generator=generator)
    return start, end


def at(t: float) -> Tensor:
    return torch.tensor([t], dtype=torch.float64)


def ends_of(kind: str, seed: int) -> tuple[Tensor, Tensor]:
    start, other = pair(seed)
    return start, {
        "any": other,
        "equal": start.clone(),
        "nearly equal": start * (1 + 1e-6),
        "opposite": -start,
        "nearly opposite": -start + 1e-6 * other,
        "zero": torch.zeros_like(start),
        "huge": other * 1e30,
    }[kind]


KINDS = ["any", "equal", "nearly equal", "opposite", "nearly opposite", "zero", "huge"]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS)
def test_slerp_meets_both_ends_exactly(kind: str, seed: int) -> None:
    start, end = ends_of(kind, seed)
    assert torch.equal(slerp(start, end, at(0.0)), start)
    assert torch.equal(slerp(start, end, at(1.0)), end)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=SEEDS, t=FRACTIONS)
def test_slerp_is_finite_and_symmetric(kind: str, seed: int, t: float) -> None:
    start, end = ends_of(kind, seed)
    point = slerp(start, end, at(t))
    assert point.isfinite().all()
    assert torch.equal(point, slerp(end, start, at(1 - t)))


@given(seed=SEEDS, t=st.floats(0, 1))
def test_slerp_turns_evenly_and_keeps_the_norm(seed: int, t: float) -> None:
    start, end = (torch.nn.functional.normalize(latent.double().flatten(1)) for latent in pair(seed))
    point = slerp(start, end, at(t))
    angle = math.acos(float((start * end).sum()))
    assert float(point.norm()) == pytest.approx(1.0, abs=1e-9)
    assert float((start * point).sum()) == pytest.approx(math.cos(t * angle), abs=1e-9)
    assert float((end * point).sum()) == pytest.approx(math.cos((1 - t) * angle), abs=1e-9)


def test_slerp_of_nearly_opposite_latents_still_goes_round() -> None:
    """At 0.01 degrees from opposite the half-way point is a unit vector, not the zero that a line gives."""
    angle = math.pi - math.radians(0.01)
    start, end = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.cos(angle), math.sin(angle)]])
    torch.testing.assert_close(slerp(start, end, at(0.5)), torch.tensor([[0.0, 1.0]]), rtol=0, atol=1e-3)


def test_each_sample_turns_by_its_own_angle() -> None:
    start, end = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.2, 0.5, 0.9])
    together = slerp(start, end, t)
    for row in range(3):
        alone = slerp(start[row : row + 1], end[row : row + 1], t[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)


@given(seed=SEEDS, t=FRACTIONS)
def test_lerp_is_the_weighted_mean(seed: int, t: float) -> None:
    start, end = pair(seed)
    torch.testing.assert_close(lerp(start, end, at(t)), (1 - t) * start + t * end)
    assert torch.equal(lerp(start, end, at(t)), lerp(end, start, at(1 - t)))


def along(points: Tensor, frames: int, method: Literal["linear", "slerp"]) -> Tensor:
    return walk(points, positions(len(points), frames), method)


@methods
@pytest.mark.parametrize("frames", [2, 3, 10])
def test_a_path_has_its_ends_and_even_frames(method: Literal["linear", "slerp"], frames: int) -> None:
    ends = torch.cat(pair(3))
    points = along(ends, frames, method)
    assert points.shape == (frames, *SHAPE)
    assert points.dtype == torch.float32
    assert torch.equal(points[0], ends[0])
    assert torch.equal(points[-1], ends[1])
    strides = points.diff(dim=0).flatten(1).norm(dim=1)
    if method == "linear":
        torch.testing.assert_close(strides, strides[0].expand_as(strides))
    torch.testing.assert_close(along(ends.flip(0), frames, method), points.flip(0))


@methods
@pytest.mark.parametrize("easing", ["linear", "cosine"])
def test_a_path_meets_every_point_exactly(
    method: Literal["linear", "slerp"], easing: Literal["linear", "cosine"]
) -> None:
    points = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    assert torch.equal(walk(points, positions(4, 10, easing), method)[::3], points)
    around = walk(points, positions(4, 12, easing, loop=True), method)
    assert torch.equal(around[::3], points)
    torch.testing.assert_close(around[10], walk(points[[3, 0]], positions(2, 4, easing), method)[1])


def test_cosine_easing_is_slow_at_the_points() -> None:
    expected = [0, (1 - math.sqrt(0.5)) / 2, 0.5, (1 + math.sqrt(0.5)) / 2, 1, 1 + (1 - math.sqrt(0.5)) / 2]
    assert positions(3, 9, "cosine").tolist()[:6] == pytest.approx(expected)


def test_methods_differ_between_the_ends() -> None:
    ends = torch.cat(pair(3))
    assert not torch.allclose(along(ends, 3, "linear")[1], along(ends, 3, "slerp")[1])


@pytest.mark.parametrize(("points", "frames"), [(2, -1), (2, 0), (2, 1), (1, 5), (0, 2)])
def test_a_path_needs_two_points_and_frames(points: int, frames: int) -> None:
    with pytest.raises(ValueError, match=f"{frames} frames through {points} points are out of range"):
        positions(points, frames)


def test_what_is_unknown_is_refused() -> None:
    with pytest.raises(ValueError, match="'cubic' is unknown; allowed: linear, slerp"):
        walk(torch.zeros(2, 2), torch.zeros(3), "cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'cubic' is unknown; allowed: linear, cosine"):
        positions(2, 3, "cubic")  # type: ignore[arg-type]
