"""The points of a path: seeds, pictures and latents to latents, and the class at each."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from starlette.requests import Request
from torch import Tensor

from service import images
from service.api.arrays import to_base64
from service.api.capabilities import denoises, missing
from service.api.resolve import Resolved, labels_of
from service.api.schemas import InterpolateRequest, Params, Point
from service.api.start_fields import written
from service.api.starts import clean_latents, data_uri, invert
from service.api.state import State
from service.api.uploads import Fitted, read_picture
from service.engine.engine import Deployment
from service.engine.model import Model
from service.engine.starts import image_tensor, seed_latent, tensor_of
from service.errors import FieldProblem, InvalidField
from service.sampling.interpolate import InterpolationMethod


class KeyPoint(NamedTuple):
    """One of the points of a request: what its field is called, what it asks for, its seed if any, its class."""

    name: str
    asked: Point
    seed: int | None
    label: int


class Ends(NamedTuple):
    """What a path leads through: a latent (*latent) for each point, and the picture that was sent for it, if any."""

    latents: Sequence[Tensor]
    sent: Sequence[images.Pixels | None]
    params: Params
    warnings: Sequence[str]
    natural_method: InterpolationMethod


def key_points(body: InterpolateRequest, model: Model, resolved: Resolved) -> list[KeyPoint]:
    """The points of ``body``, checked, with their seeds and classes. Raises InvalidField."""
    if problems := [*_problems(body, model)]:
        raise InvalidField(problems)
    names, points = [*_names(body)], body.key_points
    seeds = [_seed(point) for point in points]
    own = [_label(point, name, model) for name, point in zip(names, points, strict=True)]
    common = own[0] if resolved.labels[0] is None else resolved.labels[0]
    if common is None:
        common = resolved.null_label if seeds[0] is None else resolved.label_of(seeds[0])
    labels = [common if label is None else label for label in own]
    return [KeyPoint(*each) for each in zip(names, points, seeds, labels, strict=True)]


def guided(body: InterpolateRequest, model: Model, resolved: Resolved, points: Sequence[KeyPoint]) -> Resolved:
    """``resolved`` with the guidance that classes of ``points`` leave room for.

    Raises InvalidField where they leave none and ``body`` asks for some, or where the model blends no classes.
    """
    labels = {point.label for point in points}
    if len(labels) == 1 and resolved.null_label not in labels:
        return resolved
    if len(labels) > 1 and not denoises(model):
        other = next(point for point in points if point.label != points[0].label)
        says = f"{model.name}, a {model.manifest.family}, cannot blend classes"
        raise InvalidField.of(f"{other.name}/class_label", says, "one class for all points")
    for name in ("guidance_scale", "negative_class"):
        if getattr(body, name) not in (None, 1.0):
            says = "guides towards a class, and " + ("there are several" if len(labels) > 1 else "there is none")
            raise InvalidField.of(name, says, "leave it out, or one class for all points")
    params = resolved.params | ({"guidance_scale": 1.0} if "guidance_scale" in resolved.params else {})
    return resolved._replace(guidance_scale=1.0, params=params)


async def ends_of(
    request: Request,
    state: State,
    body: InterpolateRequest,
    deployment: Deployment,
    resolved: Resolved,
    points: Sequence[KeyPoint],
) -> Ends:
    """What ``points`` of ``body`` begin from. Raises as ``starts.begin``."""
    model = deployment.model
    fitted = [
        await read_picture(f"{point.name}/image", point.asked.image, model.manifest.image_shape, state.settings)
        if point.asked.image is not None
        else None
        for point in points
    ]
    encoded = iter(await _encoded(request, state, body, deployment, resolved.plan.steps, points, fitted))
    told = [_told(point, picture) for point, picture in zip(points, fitted, strict=True)]
    return Ends(
        latents=[next(encoded) if point.asked.image is not None else _latent(point, model) for point in points],
        sent=[None if each is None else each.pixels for each in fitted],
        params={"points": [*told]} if body.points else {"from": told[0], "to": told[1]},
        warnings=[warning for each in fitted if each is not None for warning in each.warnings],
        natural_method="linear" if any(fitted) and not denoises(model) else "slerp",
    )


async def _encoded(
    request: Request,
    state: State,
    body: InterpolateRequest,
    deployment: Deployment,
    steps: int,
    points: Sequence[KeyPoint],
    fitted: Sequence[Fitted | None],
) -> Sequence[Tensor]:
    """The latents of those points that are pictures."""
    pictures = [image_tensor(each.pixels) for each in fitted if each is not None]
    labels = [point.label for point, each in zip(points, fitted, strict=True) if each is not None]
    if not pictures:
        return []
    x_starts = await clean_latents(request, state, body, deployment, pictures, labels)
    if not denoises(deployment.model):
        return x_starts
    latents = await invert(request, state, body, deployment, x_starts, labels, steps)
    return [tensor_of(latent) for latent in latents]


def _names(body: InterpolateRequest) -> Iterator[str]:
    """What the fields of the points are called."""
    if body.points is None:
        yield from ("from", "to")
    else:
        yield from (f"points/{index}" for index in range(len(body.points)))


def _problems(body: InterpolateRequest, model: Model) -> Iterator[FieldProblem]:
    if body.points is not None and (body.start or body.end):
        yield FieldProblem("#/points", "says what the path leads through, and so do from and to", "one of the two")
    inverts = denoises(model) and any(point.image is not None for point in body.key_points)
    if inverts and body.solver not in (None, "ddim"):
        yield FieldProblem("#/solver", "does not give pictures back that are sent", "ddim")
    for name, point in zip(_names(body), body.key_points, strict=True):
        given = [field for field in ("seed", "image", "latents") if getattr(point, field) is not None]
        for field in given[1:]:
            yield FieldProblem(f"#/{name}/{field}", f"says what the point is, and so does {given[0]}", "one of the two")
        says = missing(model, "image")
        if point.image is not None and says is not None:
            yield FieldProblem(f"#/{name}/image", says, "seed, latents")
        if point.latents is not None and point.latents.shape != model.manifest.latent_shape:
            says = f"has shape {written(point.latents.shape)}"
            yield FieldProblem(f"#/{name}/latents", says, written(model.manifest.latent_shape))


def _seed(point: Point) -> int | None:
    if point.image is not None or point.latents is not None:
        return None
    return random.getrandbits(32) if point.seed is None else point.seed


def _label(point: Point, name: str, model: Model) -> int | None:
    problems: list[FieldProblem] = []
    (label,) = labels_of([point.class_label], model, f"{name}/class_label", problems)
    if problems:
        raise InvalidField(problems)
    return label


def _latent(point: KeyPoint, model: Model) -> Tensor:
    if point.asked.latents is not None:
        return tensor_of(point.asked.latents.numpy())
    assert point.seed is not None
    return seed_latent(model, point.seed)


def _told(point: KeyPoint, fitted: Fitted | None) -> Params:
    """What makes the point again."""
    told: Params = {}
    if fitted is not None:
        told["image"] = data_uri(fitted.pixels)
    elif point.asked.latents is not None:
        told["latents"] = to_base64(point.asked.latents.numpy())
    else:
        told["seed"] = point.seed
    if point.asked.class_label is not None:
        told["class_label"] = point.asked.class_label
    return told
