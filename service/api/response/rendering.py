"""Pictures as the bytes of an answer, in any of the formats that are offered."""

import base64
import time
from collections.abc import Sequence

import numpy as np
from pydantic_core import to_json
from starlette.requests import Request

from service import images
from service.api.http.request_id import request_id
from service.api.order import Made, Order
from service.api.request.arrays import from_base64, to_base64
from service.api.request.layout import sheet_of
from service.api.request.negotiation import FORMAT, GIF, JSON, NPY, ONE_IMAGE, PNG, WEBP, ZIP
from service.api.request.schemas import Params
from service.api.response.film import strips
from service.api.response.measures import codes_of, path_of
from service.api.response.reproduce import curl, origin_of
from service.api.response.schemas import Picture, PicturesAnswer, Timings
from service.request_info import info_of

#: Frames a second of an animation.
GIF_FPS = 10


def render(order: Order, made: Made, request: Request) -> bytes:
    """The body of the answer to ``request``."""
    if order.media in ONE_IMAGE:
        return _one_image(order, made)
    if order.media == JSON:
        return _json(order, made, request)
    if order.media == ZIP:
        return _zip(order, made.pictures)
    if order.media == NPY and order.codes is not None:
        return images.encode_npy(order.codes.latents)
    if order.media == NPY:
        return images.encode_npy(_enlarged(order, made.pictures))
    assert order.media == GIF
    return images.encode_gif(_enlarged(order, _frames(order, made)), order.asked.fps or GIF_FPS)


def picture_png(order: Order, index: int, picture: images.Pixels) -> bytes:
    """One of the pictures as a PNG of its own, with the parameters that make it alone, or else the whole order's."""
    return images.encode_png(images.enlarge(picture, order.asked.scale), _parameters(order, _params_of(order, index)))


def class_name(order: Order, index: int) -> str | None:
    """The class of a picture; none where it has none."""
    names, label = order.model.manifest.class_names, order.rows[index].label
    return names[label] if label < len(names) else None


def _one_image(order: Order, made: Made) -> bytes:
    tiles, film = made.pictures, order.rows[0].film
    if film is not None and order.asked.layout == "film":
        tiles = [tile for strip in strips(film, made.film, made.pictures) for tile in strip]
    image = tiles[0]
    if len(tiles) > 1:
        sheet = sheet_of(order.asked, order.rows[0].plan.steps)
        image = images.tile(tiles, sheet.columns, sheet.gap)
    image = images.enlarge(image, order.asked.scale)
    if order.media == PNG:
        return images.encode_png(image, _parameters(order, order.params))
    quality = order.asked.quality
    if order.media == WEBP:
        return images.encode_webp(image, quality)
    return images.encode_jpeg(image) if quality is None else images.encode_jpeg(image, quality)


def _frames(order: Order, made: Made) -> Sequence[images.Pixels]:
    """What an animation shows: the pictures in turn; of a film all of them together, step by step."""
    film = order.rows[0].film
    if film is None or order.asked.layout != "film":
        return made.pictures
    together = strips(film, made.film, made.pictures)
    columns = images.grid_columns(len(together)) if len(made.pictures) > 1 else len(together)
    return [images.tile(step, columns) for step in zip(*together, strict=True)]


def _enlarged(order: Order, pictures: Sequence[images.Pixels]) -> images.Pixels:
    return np.stack([images.enlarge(picture, order.asked.scale) for picture in pictures])


def _json(order: Order, made: Made, request: Request) -> bytes:
    started = time.monotonic()
    shown = [show_picture(order, index, picture) for index, picture in enumerate(made.pictures)]
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
                queue_ms=1000 * made.queue_s,
                compute_ms=1000 * made.compute_s,
                encode_ms=1000 * (encoded - started),
                total_ms=1000 * (encoded - info_of(request.scope).arrived_at),
                ms_per_step=1000 * made.compute_s / steps if steps else None,
            ),
            reproduce=curl(origin_of(request), order.path, order.params, PNG, file_name(order, PNG)),
            path=None if order.walk is None else path_of(order.walk, made.pictures),
            codes=None if order.codes is None else codes_of(order.codes, made.pictures),
        )
        .model_dump_json()
        .encode()
    )


def show_picture(order: Order, index: int, picture: images.Pixels) -> Picture:
    """One of the pictures as JSON has it."""
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
    """A PNG for each picture, numbered in order, and params.json."""
    files = {f"{index:04d}.png": picture_png(order, index, picture) for index, picture in enumerate(pictures)}
    return images.encode_zip({**files, "params.json": _parameters(order, order.params)})


def file_name(order: Order, media: str) -> str:
    """What to save an answer as: the model, the first seed, and the format."""
    seed = "" if order.seeds[0] is None else f"-{order.seeds[0]}"
    return f"{order.model.name}{seed}.{FORMAT.get(media, 'bin')}"


def _parameters(order: Order, params: Params) -> bytes:
    """The text of a PNG; none where it would be longer than what is read back, or where no body makes it again."""
    if order.kind == "latent-map":
        return b""
    model = order.model
    text = to_json({"model": model.name, "model_version": model.manifest.version, "path": order.path, "params": params})
    return text if len(text) <= images.MAX_TEXT else b""


def _params_of(order: Order, index: int) -> Params:
    """The request that makes one of the pictures alone; that of all where no request does."""
    if order.kind != "generation":
        return order.params
    shared = {name: value for name, value in order.params.items() if name not in _OF_ALL}
    if len(order.rows) == 1:
        return shared
    label, latents = order.params["class_label"], order.params.get("latents")
    label = label[index] if isinstance(label, list) else label
    alone: Params = {"n": 1, "seed": order.seeds[index], "class_label": label}
    if isinstance(latents, str):
        alone["latents"] = to_base64(from_base64(latents)[index : index + 1])
    return {**alone, **{name: value for name, value in shared.items() if name not in {*alone, "seeds"}}}


#: Fields that say how pictures are shown together.
_OF_ALL = frozenset({"layout", "fps", "preview_every", "preview_kind"})
