"""The points of an interpolation: the latent and the class of each, from its seed, picture or latent."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from service import images
from service.api.order import Compute, Order, Uploads
from service.api.request.arrays import Array, to_base64
from service.api.request.capabilities import denoises, reads_prompts, unsupported
from service.api.request.capabilities import inverts as can_invert
from service.api.request.prompt_fields import latent_shape_of, size_of
from service.api.request.resolve import Resolved, labels_of, no_class_problem
from service.api.request.schemas import ClassLabel, InterpolateRequest, Params, Point
from service.api.request.start_fields import written
from service.api.request.uploads import Fitted
from service.api.tasks.starts import clean_latents, data_uri, encoding, inverted, inverting, read_upload
from service.engine.initial_latents import image_tensor, tensor_of
from service.engine.model import Model
from service.engine.pricing import Part
from service.engine.rows import Size
from service.errors import FieldProblem, InvalidField
from service.sampling.interpolate import InterpolationMethod
from service.sampling.noise import RowNoise
from service.settings import Settings


class KeyPoint(NamedTuple):
    """A checked point: its field, seed if it has one, label, latent if given, and whether a picture was uploaded.

    ``own_class`` is the class that its own field names, ``prompt`` the text of its own.
    """

    name: str
    seed: int | None
    label: int
    latents: Array | None
    own_class: ClassLabel | None
    sent: bool
    prompt: str | None = None


class Ends(NamedTuple):
    """The latent (*latent) of each point, its uploaded picture, if any, and warnings of decoding."""

    latents: Sequence[Tensor]
    sent: Sequence[images.Pixels | None]
    warnings: Sequence[str]


def key_points(body: InterpolateRequest, model: Model, resolved: Resolved) -> list[KeyPoint]:
    """The points of ``body``, with their seeds and labels. Raises InvalidField."""
    if problems := [*_problems(body, model)]:
        raise InvalidField(problems)
    names, points = [*_names(body)], body.key_points
    seeds = [_seed(point) for point in points]
    own = [_label(point, name, model) for name, point in zip(names, points, strict=True)]
    common = own[0] if resolved.labels[0] is None else resolved.labels[0]
    if common is None:
        if seeds[0] is None and model.manifest.needs_class:
            raise InvalidField([no_class_problem("class_label", model.manifest)])
        common = resolved.null_label if seeds[0] is None else resolved.label_of(seeds[0])
    labels = [common if label is None else label for label in own]
    return [
        KeyPoint(name, seed, label, point.latents, point.class_label, point.image is not None, point.prompt)
        for name, point, seed, label in zip(names, points, seeds, labels, strict=True)
    ]


def guided(body: InterpolateRequest, model: Model, resolved: Resolved, points: Sequence[KeyPoint]) -> Resolved:
    """``resolved``, without guidance if ``points`` have several classes or none; prompts are guided all the same.

    Raises InvalidField where ``body`` asks for guidance then, or where the model cannot blend classes.
    """
    labels = {point.label for point in points}
    if reads_prompts(model):
        return resolved
    if len(labels) == 1 and resolved.null_label not in labels:
        return resolved
    if len(labels) > 1 and not denoises(model):
        other = next(point for point in points if point.label != points[0].label)
        says = f"{model.name}, a {model.manifest.family}, cannot blend classes"
        raise InvalidField.of(f"{other.name}/class_label", says, "one class for all points")
    for name in ("guidance_scale", "negative_class"):
        if getattr(body, name) not in (None, 1.0):
            says = "needs one class, and " + ("the points have several" if len(labels) > 1 else "there is none")
            raise InvalidField.of(name, says, "leave it out, or one class for all points")
    params = resolved.params | ({"guidance_scale": 1.0} if "guidance_scale" in resolved.params else {})
    return resolved._replace(guidance_scale=1.0, params=params)


def uploads_of(body: InterpolateRequest) -> Uploads:
    """The uploads of the points of ``body``."""
    points = zip(_names(body), body.key_points, strict=True)
    return Uploads({f"{name}/image": point.image for name, point in points if point.image is not None})


def parts_before(model: Model, points: Sequence[KeyPoint], steps: int) -> Sequence[Part]:
    """The parts that ``model`` computes for uploads of ``points`` before frames of so many steps."""
    sent = sum(point.sent for point in points)
    return [*encoding(model, sent), *(inverting(model, sent, steps) if denoises(model) else [])]


def method_of(body: InterpolateRequest, model: Model) -> InterpolationMethod:
    """The method of ``body``; auto is linear between encoded pictures, and slerp between noise."""
    if body.method != "auto":
        return body.method
    return "linear" if not denoises(model) and any(point.image is not None for point in body.key_points) else "slerp"


async def ends_of(settings: Settings, points: Sequence[KeyPoint], steps: int, order: Order, compute: Compute) -> Ends:
    """The latents of ``points``, from the uploads of ``order``. Raises as ``read_picture``."""
    model, fitted = order.model, [await _fitted(settings, point, order) for point in points]
    pictures = [image_tensor(each.pixels) for each in fitted if each is not None]
    labels = [point.label for point in points if point.sent]
    latents = await clean_latents(model, pictures, labels, compute)
    if denoises(model):
        latents = [tensor_of(latent) for latent in await inverted(model, latents, labels, steps, compute)]
    encoded = iter(latents)
    return Ends(
        latents=[next(encoded) if point.sent else _latent(point, model, order.rows[0].size) for point in points],
        sent=[None if each is None else each.pixels for each in fitted],
        warnings=[warning for each in fitted if each is not None for warning in each.warnings],
    )


def point_params(body: InterpolateRequest, points: Sequence[KeyPoint], sent: Sequence[images.Pixels | None]) -> Params:
    """The fields that reproduce the points of ``body``, with the uploaded pictures in ``sent``."""
    each = [_params_of(point, picture) for point, picture in zip(points, sent, strict=True)]
    return {"points": [*each]} if body.points else {"from": each[0], "to": each[1]}


async def _fitted(settings: Settings, point: KeyPoint, order: Order) -> Fitted | None:
    """The uploaded picture of ``point``, if any."""
    return await read_upload(order, f"{point.name}/image", settings) if point.sent else None


def _names(body: InterpolateRequest) -> Iterator[str]:
    """The field names of the points."""
    if body.points is None:
        yield from ("from", "to")
    else:
        yield from (f"points/{index}" for index in range(len(body.points)))


def _problems(body: InterpolateRequest, model: Model) -> Iterator[FieldProblem]:
    if body.points is not None and (body.start or body.end):
        yield FieldProblem("#/points", "conflicts with from and to", "one of the two")
    shape = latent_shape_of(model, size_of(body, model))
    inverts = denoises(model) and any(point.image is not None for point in body.key_points)
    if inverts and body.solver not in (None, "ddim"):
        yield FieldProblem("#/solver", "cannot invert uploaded pictures", "ddim")
    for name, point in zip(_names(body), body.key_points, strict=True):
        given = [field for field in ("seed", "image", "latents") if getattr(point, field) is not None]
        for field in given[1:]:
            yield FieldProblem(f"#/{name}/{field}", f"conflicts with {given[0]}", "one of the two")
        for field in ("prompt", "class_label"):
            says = unsupported(model, field, "interpolate")
            if getattr(point, field) is not None and says is not None:
                yield FieldProblem(f"#/{name}/{field}", says, "leave it out")
        says = unsupported(model, "image", "interpolate")
        if says is None and denoises(model) and not can_invert(model):
            says = f"is not supported by {model.name}: it finds no noise that a picture comes from"
        if point.image is not None and says is not None:
            yield FieldProblem(f"#/{name}/image", says, "seed, latents")
        if point.latents is not None and point.latents.shape != shape:
            yield FieldProblem(f"#/{name}/latents", f"has shape {written(point.latents.shape)}", written(shape))


def _seed(point: Point) -> int | None:
    if point.image is not None or point.latents is not None:
        return None
    return random.getrandbits(32) if point.seed is None else point.seed


def _label(point: Point, name: str, model: Model) -> int | None:
    problems: list[FieldProblem] = []
    (label,) = labels_of([point.class_label], model.manifest, f"{name}/class_label", problems)
    if problems:
        raise InvalidField(problems)
    return label


def _latent(point: KeyPoint, model: Model, size: Size | None) -> Tensor:
    if point.latents is not None:
        return tensor_of(point.latents.numpy())
    assert point.seed is not None
    return RowNoise(point.seed).draw(latent_shape_of(model, size))


def _params_of(point: KeyPoint, sent: images.Pixels | None) -> Params:
    """The fields that reproduce the point, with its uploaded picture once it is decoded."""
    params: Params = {}
    if sent is not None:
        params["image"] = data_uri(sent)
    elif point.latents is not None:
        params["latents"] = to_base64(point.latents.numpy())
    elif point.seed is not None:
        params["seed"] = point.seed
    if point.own_class is not None:
        params["class_label"] = point.own_class
    if point.prompt is not None:
        params["prompt"] = point.prompt
    return params
