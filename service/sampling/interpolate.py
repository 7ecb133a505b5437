"""Paths between two latents. All arithmetic is float64: nearly opposite latents cancel to almost nothing."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

InterpolationMethod = Literal["linear", "slerp"]

# Below this sine two directions span no plane in which to turn from one to the other.
_SMALLEST_SINE = 1e-6


def lerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Straight line from `start` (t = 0) to `end` (t = 1), (batch, *latent); t is (batch,) in [0, 1]."""
    t = t.double()
    return _mix(start, end, 1 - t, t)


def slerp(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Spherical interpolation (Shoemake 1985), which keeps the norm that Gaussian latents have.

    Each sample is one flat vector. Where the two are parallel or opposite, which leaves no one great circle
    between them, the path is the straight line.

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


def path(start: Tensor, end: Tensor, frames: int, method: InterpolationMethod) -> Tensor:
    """Evenly spaced points from `start` to `end`, both (*latent) and both included, as (frames, *latent).

    Raises:
        ValueError: an unknown method, or fewer frames than the two ends.
    """
    if method not in _METHODS:
        raise ValueError(f"interpolation method {method!r} is unknown; there are {', '.join(_METHODS)}")
    if frames < 2:
        raise ValueError(f"frames {frames} is out of range; a path has at least its two ends")
    t = torch.linspace(0, 1, frames, dtype=torch.float64, device=start.device)
    return _METHODS[method](start.expand(frames, *start.shape), end.expand(frames, *end.shape), t)


def _angle(start: Tensor, end: Tensor) -> Tensor:
    # Kahan's form: the arc cosine of a dot product loses half the digits near 0 and pi.
    u = torch.nn.functional.normalize(start, dim=1)
    v = torch.nn.functional.normalize(end, dim=1)
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def _mix(start: Tensor, end: Tensor, start_weight: Tensor, end_weight: Tensor) -> Tensor:
    shape = (-1, *[1] * (start.ndim - 1))
    return (start_weight.view(shape) * start + end_weight.view(shape) * end).to(start.dtype)
