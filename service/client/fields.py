"""Fields of requests, and bodies built from them. docs/API.md explains the fields."""

import base64
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from service.client.errors import Unsendable

#: A picture to upload: the bytes of a PNG, JPEG or WebP file, or its path.
Upload = bytes | Path
ClassLabel = int | str
#: A starting latent: nested lists, or an array with ``tolist``.
Latents = Any
Format = Literal["png", "webp", "jpeg", "gif", "npy", "zip", "json"]
Body = dict[str, Any]


class SamplingFields(TypedDict, total=False):
    """Fields of all requests for pictures; the service has a default for each."""

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


class Lora(TypedDict, total=False):
    """A LoRA of a model: its name, and how much of it is added, 1 if absent."""

    name: str
    scale: float


class GenerateFields(SamplingFields, total=False):
    """Fields of /generate."""

    n: int
    seed: int
    seeds: Sequence[int]
    class_label: ClassLabel | Sequence[ClassLabel]
    prompt: str | Sequence[str]
    negative_prompt: str | Sequence[str]
    width: int
    height: int
    lora: str | Lora | Sequence[str | Lora | None]
    control_image: Upload
    control: str
    control_scale: float
    control_start: float
    control_end: float
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
    """Fields of /interpolate."""

    frames: int
    method: Literal["auto", "linear", "slerp"]
    easing: Literal["linear", "cosine"]
    loop: bool
    class_label: ClassLabel
    prompt: str
    negative_prompt: str
    width: int
    height: int
    lora: str | Lora
    solver: str


class EncodeFields(TypedDict, total=False):
    """Fields of /encode."""

    class_label: ClassLabel | Sequence[ClassLabel]
    steps: int
    scale: int


class Point(TypedDict, total=False):
    """A point of a path: a seed, an uploaded picture, or a latent."""

    seed: int
    image: Upload
    latents: Latents
    class_label: ClassLabel
    prompt: str


def generate_body(fields: Mapping[str, Any]) -> Body:
    """The body of /generate. A missing seed is drawn here, so that a retry requests the same pictures."""
    body: Body = on_the_wire(fields)
    return body if {"seed", "seeds"} & body.keys() else body | {"seed": _draw()}


def path_body(model: str, points: Sequence[int | Upload | Point], fields: Mapping[str, Any]) -> Body:
    """The body of /interpolate through ``points``; without points, two seeds are drawn."""
    bodies = [_point(point) for point in points or ({}, {})]
    ends = {"from": bodies[0], "to": bodies[1]} if len(bodies) == 2 else {"points": bodies}
    return {"model": model, **ends, **on_the_wire(fields)}


def on_the_wire(value: Any) -> Any:  # noqa: ANN401  (any field's value)
    """``value`` as JSON: files as base64, arrays as lists. Raises Unsendable, OSError."""
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
