"""Pictures as the body of an answer, in each of the formats on offer."""

import base64
import time
from collections.abc import Sequence

import numpy as np
from pydantic import JsonValue
from pydantic_core import to_json
from starlette.requests import Request

from service import images
from service.api.http.request_id import request_id
from service.api.order import Order, Output
from service.api.request.arrays import from_base64, to_base64
from service.api.request.layout import kinds_of
from service.api.request.negotiation import GIF, JSON, NPY, ONE_IMAGE, PNG, WEBP, ZIP
from service.api.request.prompt_fields import LISTS
from service.api.request.schemas import Params
from service.api.response.measures import codes_of, path_of
from service.api.response.reproduce import curl, file_name, origin_of
from service.api.response.schemas import Picture, PicturesAnswer, Timings
from service.engine.results import Preview
from service.engine.rows import Film
from service.request_info import info_of

#: Frames per second of an animation, by default.
GIF_FPS = 10


def render(order: Order, output: Output, request: Request) -> bytes:
    """The body of the answer to ``request``."""
    if order.media in ONE_IMAGE:
        return _one_image(order, output)
    if order.media == JSON:
        return _json(order, output, request)
    if order.media == ZIP:
        return _zip(order, output.pictures)
    if order.media == NPY and order.codes is not None:
        return images.encode_npy(order.codes.latents)
    if order.media == NPY:
        return images.encode_npy(_enlarged(order, output.pictures))
    assert order.media == GIF
    return images.encode_gif(_enlarged(order, _frames(order, output)), order.asked.fps or GIF_FPS)


def picture_png(order: Order, index: int, picture: images.Pixels) -> bytes:
    """One picture as a PNG, with the parameters that reproduce it alone, else those of the whole order."""
    return images.encode_png(images.enlarge(picture, order.asked.scale), _parameters(order, _params_of(order, index)))


def class_name(order: Order, index: int) -> str | None:
    """The name of a picture's class; None where it has no class."""
    names, label = order.model.manifest.class_names, order.rows[index].label
    return names[label] if label < len(names) else None


def _one_image(order: Order, output: Output) -> bytes:
    tiles, layout = output.pictures, order.layout
    if layout.film is not None:
        tiles = [tile for strip in strips(layout.film, output.film, output.pictures) for tile in strip]
    image = tiles[0] if len(tiles) == 1 else images.tile(tiles, layout.columns, layout.gap)
    image = images.enlarge(image, order.asked.scale)
    if order.media == PNG:
        return images.encode_png(image, _parameters(order, order.params))
    quality = order.asked.quality
    if order.media == WEBP:
        return images.encode_webp(image, quality)
    return images.encode_jpeg(image) if quality is None else images.encode_jpeg(image, quality)


def _frames(order: Order, output: Output) -> Sequence[images.Pixels]:
    """The frames of an animation: the pictures one after another; of a film, all pictures side by side at each step."""
    film = order.layout.film
    if film is None:
        return output.pictures
    together = strips(film, output.film, output.pictures)
    columns = images.grid_columns(len(together)) if len(output.pictures) > 1 else len(together)
    return [images.tile(step, columns) for step in zip(*together, strict=True)]


def strips(film: Film, previews: Sequence[Preview], pictures: Sequence[images.Pixels]) -> list[list[images.Pixels]]:
    """A strip for each of ``pictures`` and each kind of preview: the previews by step, then the picture."""
    by_step = sorted(previews, key=lambda preview: preview.step)
    return [
        [*(_of_kind(preview, kind) for preview in by_step if preview.row == row), picture]
        for row, picture in enumerate(pictures)
        for kind in kinds_of(film)
    ]


def _of_kind(preview: Preview, kind: str) -> images.Pixels:
    picture = preview.x_start if kind == "x0" else preview.x_t
    assert picture is not None
    return picture


def _enlarged(order: Order, pictures: Sequence[images.Pixels]) -> images.Pixels:
    return np.stack([images.enlarge(picture, order.asked.scale) for picture in pictures])


def _json(order: Order, output: Output, request: Request) -> bytes:
    started = time.monotonic()
    shown = [show_picture(order, index, picture) for index, picture in enumerate(output.pictures)]
    encoded = time.monotonic()
    steps = order.rows[0].plan.steps
    return (
        PicturesAnswer(
            id=request_id(request.scope),
            object=order.kind,
            created=int(time.time()),
            model=order.model.name,
            model_version=order.model.manifest.version,
            images=shown,
            params=order.params,
            warnings=list(order.warnings),
            metadata=order.asked.metadata or {},
            timings=Timings(
                queue_ms=1000 * output.queue_s,
                compute_ms=1000 * output.compute_s,
                encode_ms=1000 * (encoded - started),
                total_ms=1000 * (encoded - info_of(request.scope).arrived_at),
                ms_per_step=1000 * output.compute_s / steps if steps else None,
            ),
            reproduce=curl(origin_of(request), order.path, order.params, PNG, file_name(order, PNG)),
            path=None if order.walk is None else path_of(order.walk, output.pictures),
            codes=None if order.codes is None else codes_of(order.codes, output.pictures),
        )
        .model_dump_json()
        .encode()
    )


def show_picture(order: Order, index: int, picture: images.Pixels) -> Picture:
    """One picture as an entry of the JSON answer."""
    height, width, _ = picture.shape
    return Picture(
        index=index,
        seed=order.seeds[index],
        class_label=class_name(order, index),
        b64_json=base64.b64encode(picture_png(order, index, picture)).decode(),
        mime="image/png",
        width=width * order.asked.scale,
        height=height * order.asked.scale,
    )


def _zip(order: Order, pictures: Sequence[images.Pixels]) -> bytes:
    """A numbered PNG for each picture, and params.json."""
    files = {f"{index:04d}.png": picture_png(order, index, picture) for index, picture in enumerate(pictures)}
    return images.encode_zip({**files, "params.json": _parameters(order, order.params)})


def _parameters(order: Order, params: Params) -> bytes:
    """The text of a PNG; empty where it is too long to be read back, or where no request reproduces the picture."""
    if order.kind == "latent-map":
        return b""
    model = order.model
    text = to_json({"model": model.name, "model_version": model.manifest.version, "path": order.path, "params": params})
    return text if len(text) <= images.MAX_TEXT else b""


def _params_of(order: Order, index: int) -> Params:
    """The request that reproduces one picture alone; that of all pictures where there is none."""
    if order.kind != "generation":
        return order.params
    shared = {name: value for name, value in order.params.items() if name not in _LAYOUT_FIELDS}
    if len(order.rows) == 1:
        return shared
    given, latents = order.params, order.params.get("latents")
    alone: Params = {"n": 1, "seed": order.seeds[index]}
    alone |= {name: _own(given[name], index) for name in ("class_label", *LISTS) if name in given}
    if isinstance(latents, str):
        alone["latents"] = to_base64(from_base64(latents)[index : index + 1])
    return {**alone, **{name: value for name, value in shared.items() if name not in {*alone, "seeds"}}}


def _own(value: JsonValue, index: int) -> JsonValue:
    """A field's value for one picture, where it may be a list with one for each."""
    return value[index] if isinstance(value, list) else value


#: Fields that lay out several pictures.
_LAYOUT_FIELDS = frozenset({"layout", "fps", "preview_every", "preview_kind"})
