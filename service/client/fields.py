"""What can be asked for, and the bodies that ask for it. What the fields mean and allow: docs/API.md."""

import base64
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from service.client.errors import Unsendable

#: A picture to send: a PNG, JPEG or WebP file's bytes, or its path.
Upload = bytes | Path
ClassLabel = int | str
#: A latent to begin from: nested lists, or an array that has ``tolist``.
Latents = Any
Format = Literal["png", "webp", "jpeg", "gif", "npy", "zip", "json"]
Body = dict[str, Any]


class SamplingFields(TypedDict, total=False):
    """Fields of every request for pictures; one that is absent has the service's default."""

    steps: int
    guidance_scale: float
    negative_class: ClassLabel
    preview_every: int
    preview_kind: Literal["x0", "xt", "both"]
    scale: int
    layout: Literal["auto", "grid", "strip", "list", "sprite", "film"]
    fps: int
    quality: int
    timeout_ms: int
    version: str
    metadata: Mapping[str, str]


class GenerateFields(SamplingFields, total=False):
    """Fields of a request for pictures."""

    n: int
    seed: int
    seeds: Sequence[int]
    class_label: ClassLabel | Sequence[ClassLabel]
    solver: str
    eta: float
    truncation: float
    latents: Latents
    image: Upload
    strength: float
    mask: Upload
    mask_invert: bool
    spread: float
    point: Sequence[float]


class PathFields(SamplingFields, total=False):
    """Fields of a request for the pictures along a path."""

    frames: int
    method: Literal["auto", "linear", "slerp"]
    easing: Literal["linear", "cosine"]
    loop: bool
    class_label: ClassLabel
    solver: str


class EncodeFields(TypedDict, total=False):
    """Fields of a request that encodes pictures."""

    class_label: ClassLabel | Sequence[ClassLabel]
    steps: int
    scale: int


class Point(TypedDict, total=False):
    """What a path leads through: the picture of a seed, one that is sent, or that of a latent."""

    seed: int
    image: Upload
    latents: Latents
    class_label: ClassLabel


def generate_body(fields: Mapping[str, Any]) -> Body:
    """The body of /generate. A seed is drawn here: sent again after a broken connection, it asks for the same."""
    body: Body = on_the_wire(fields)
    return body if {"seed", "seeds"} & body.keys() else body | {"seed": _draw()}


def path_body(model: str, points: Sequence[int | Upload | Point], fields: Mapping[str, Any]) -> Body:
    """The body of /interpolate through ``points``, seeds, pictures or both; of two drawn ones where there are none."""
    told = [_point(point) for point in points or ({}, {})]
    ends = {"from": told[0], "to": told[1]} if len(told) == 2 else {"points": told}
    return {"model": model, **ends, **on_the_wire(fields)}


def on_the_wire(value: Any) -> Any:  # noqa: ANN401  (any field's value)
    """``value`` as JSON can hold it: files as base64, arrays as lists. Raises Unsendable, OSError."""
    try:
        return _encoded(value)
    except RecursionError as failure:
        raise Unsendable(failure) from None


def _encoded(value: Any) -> Any:  # noqa: ANN401
    if isinstance(value, Path):
        value = value.read_bytes()
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {name: _encoded(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _point(point: int | Upload | Point) -> Body:
    if isinstance(point, int):
        return {"seed": point}
    if isinstance(point, bytes | Path):
        return {"image": on_the_wire(point)}
    body: Body = on_the_wire(point)
    return body if {"seed", "image", "latents"} & body.keys() else body | {"seed": _draw()}


def _draw() -> int:
    return random.getrandbits(32)
