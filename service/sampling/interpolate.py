"""Paths between latents, in float64: nearly opposite latents cancel to almost nothing."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

InterpolationMethod = Literal["linear", "slerp"]
Easing = Literal["linear", "cosine"]

# Below this sine two directions do not determine a plane of rotation.
_SMALLEST_SINE = 1e-6


def lerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Straight line from `start` (t = 0) to `end` (t = 1), (batch, *latent); t is (batch,) in [0, 1]."""
    t = t.double()
    return _mix(start, end, 1 - t, t)


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985), which keeps the norm of Gaussian latents.

    Each sample is one flat vector. Between parallel or opposite vectors, which have no unique great circle, the path
    is the straight line.

    Args:
        start: (batch, *latent), returned exactly at t = 0.
        end: (batch, *latent), returned exactly at t = 1.
        t: (batch,) in [0, 1]; swapping the ends and 1 - t gives the same point.
    """
    t = t.double()
    angle = _angle(start.double().flatten(1), end.double().flatten(1))
    sine = angle.sin()
    straight = sine < _SMALLEST_SINE
    start_weight = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / sine)
    end_weight = torch.where(straight, t, (t * angle).sin() / sine)
    return _mix(start, end, start_weight, end_weight)


_METHODS: dict[InterpolationMethod, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "linear": lerp,
    "slerp": slerp,
}


def positions(points: int, frames: int, easing: Easing = "linear", *, loop: bool = False) -> Tensor:
    """Positions of `frames` evenly spaced frames on a path through `points` points, (frames,) float64.

    From 0, the first point, to points - 1, the last one, both included. With `loop` the path returns to the first
    point, which is not repeated. "cosine" slows down at every point.

    Raises:
        ValueError: an unknown easing, or fewer than two points or frames.
    """
    if easing not in ("linear", "cosine"):
        raise ValueError(f"easing {easing!r} is unknown; allowed: linear, cosine")
    if points < 2 or frames < 2:
        raise ValueError(f"{frames} frames through {points} points are out of range; a path has at least two of each")
    spaced = torch.arange(frames, dtype=torch.float64) / frames * points
    even = spaced if loop else torch.linspace(0, points - 1, frames, dtype=torch.float64)
    if easing == "linear":
        return even
    whole = even.floor()
    return whole + (1 - ((even - whole) * torch.pi).cos()) / 2


def walk(points: Tensor, position: Tensor, method: InterpolationMethod) -> Tensor:
    """The path through `points` (points, *latent) at `position` (frames,), as (frames, *latent).

    Position i is point i exactly; after the last point the path returns to the first one.

    Raises:
        ValueError: an unknown method.
    """
    if method not in _METHODS:
        raise ValueError(f"interpolation method {method!r} is unknown; allowed: {', '.join(_METHODS)}")
    before = position.floor().long()
    after = (before + 1) % len(points)
    return _METHODS[method](points[before], points[after], position - before)


def _angle(start: Tensor, end: Tensor) -> Tensor:
    # Kahan's form: the arc cosine of a dot product loses half the digits near 0 and pi.
    u = torch.nn.functional.normalize(start, dim=1)
    v = torch.nn.functional.normalize(end, dim=1)
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def _mix(start: Tensor, end: Tensor, start_weight: Tensor, end_weight: Tensor) -> Tensor:
    shape = (-1, *[1] * (start.ndim - 1))
    return (start_weight.view(shape) * start + end_weight.view(shape) * end).to(start.dtype)
