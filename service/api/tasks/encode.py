"""POST /encode/{model}: pictures to what a model makes of them, and back."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.endpoint import route
from service.api.order import Codes, Compute, Order, Uploads, without
from service.api.request.body import read_request
from service.api.request.capabilities import denoises, encodes, starts_from_pictures
from service.api.request.layout import check_form, check_size, film_of, shown_params
from service.api.request.negotiation import EVENT_STREAM, JSON, PICTURES
from service.api.request.resolve import check_version, labels_of, meaning_problems
from service.api.request.response_mode import Way, way_of
from service.api.request.schemas import ClassLabel, Params, Task
from service.api.request.uploads import Upload, read_picture
from service.api.response.documented import image_operation
from service.api.response.respond import respond
from service.api.state import State, deployment_of, state_of
from service.api.tasks.starts import data_uri, encoding, inverting
from service.contract.classes import NO_CLASS
from service.engine.engine import Deployment
from service.engine.initial_latents import decoded, image_tensor, mean_of, tensor_of
from service.engine.model import Model
from service.engine.results import Latent
from service.engine.rows import RowSpec, encode_row, inversion_row
from service.errors import FieldProblem, InvalidField
from service.sampling.solvers import EMPTY_PLAN
from service.settings import Settings

#: Steps of an inversion where the request does not say: its error falls with their number.
STEPS = 50

#: Numbers first: they are what is asked for.
OFFERED = (JSON, *(media for media in PICTURES if media != JSON), EVENT_STREAM)


class EncodeRequest(Task):
    """The body of POST /encode/{model}."""

    repeatable = frozenset({"image", "class_label"})

    image: list[Upload] | Upload = Field(
        description="A picture, or up to eight: base64 or data URIs, files of a form; one may be the body itself."
    )
    class_label: ClassLabel | list[ClassLabel] | None = Field(
        default=None,
        description="Index or name of the class of the picture, or a list with that of each. Absent, or 'none': none.",
        examples=[7],
    )

    @property
    def pictures(self) -> list[bytes]:
        """The uploads."""
        return self.image if isinstance(self.image, list) else [self.image]

    @property
    def count(self) -> int:
        """Number of pictures."""
        return len(self.pictures)


#: Most pictures of one request.
MOST = 8


async def post_encode(request: Request) -> Response:
    """Encode pictures, and make them again of what came out.

    A model with an encoder gives mean and log-variance; a diffusion of pixels the noise that it makes the picture from
    again, by DDIM inversion in steps. JSON has these as codes, with the error of each reconstruction, and the
    reconstructions as images; application/x-npy is float32, (n, 2, *latent_shape), mean and log-variance, or (n,
    *latent_shape), the noise; the other forms show the reconstructions.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    return await respond(
        request,
        state,
        *_ordered(request, state, deployment, await read_request(request, state.settings, EncodeRequest, pictures=2)),
    )


ROUTE = route("/encode/{model}", {"POST": image_operation(post_encode, OFFERED[:-1], body=[EncodeRequest])})


def encode_order(state: State, body: EncodeRequest, deployment: Deployment, media: str) -> Order:
    """``body`` for ``deployment``, checked by its fields alone: its pictures are encoded, and made again of that.

    Raises InvalidField, UnknownVersion.
    """
    model = deployment.model
    labels = _check(body, model, state)
    steps = body.steps or min(STEPS, model.max_steps, state.settings.max_steps)
    plan = EMPTY_PLAN if encodes(model) else model.plan("ddim", steps)
    check_size(body, model, plan.steps, state.settings)
    check_form(body, media, model.manifest.image_shape, plan.steps)
    film = film_of(body, plan.steps)
    params: Params = {"class_label": [[*model.manifest.class_names, NO_CLASS][label] for label in labels]}
    return Order(
        deployment=deployment,
        rows=[RowSpec(0, label, 1.0, plan, film=film) for label in labels],
        asked=without(body, bytes),
        media=media,
        path=f"/encode/{model.name}",
        params=params | ({"steps": steps} if plan.steps else {}) | {"scale": body.scale, **shown_params(body, film)},
        seeds=[None] * len(labels),
        kind="encoding",
        uploads=Uploads(dict(zip(_fields(len(labels)), body.pictures, strict=True))),
        before=encoding(model, len(labels)) or inverting(model, len(labels), steps),
        begin=partial(_begin, state.settings, steps),
    )


async def _begin(settings: Settings, steps: int, order: Order, compute: Compute) -> Order:
    """Rows that begin from what the uploads are encoded to, or inverted."""
    model, uploads = order.model, order.uploads
    assert uploads is not None
    shape = model.manifest.image_shape
    fitted = [await read_picture(field, uploads.take(field), shape, settings) for field in _fields(len(order.rows))]
    pictures = [image_tensor(each.pixels) for each in fitted]
    plan = None if encodes(model) else model.inversion_plan(steps)
    codes = await compute(
        [
            encode_row(picture, row.label) if plan is None else inversion_row(picture, row.label, plan)
            for picture, row in zip(pictures, order.rows, strict=True)
        ]
    )
    image: Params = {"image": [data_uri(each.pixels) for each in fitted]}
    return order._replace(
        rows=[_row(model, row, code) for row, code in zip(order.rows, codes, strict=True)],
        params=image | order.params,
        warnings=[warning for each in fitted for warning in each.warnings],
        codes=Codes(np.stack([*codes]), [each.pixels for each in fitted], encodes(model)),
    )


def _fields(count: int) -> Sequence[str]:
    """What the fields of so many pictures are called."""
    return ["image"] if count == 1 else [f"image/{index}" for index in range(count)]


def _ordered(request: Request, state: State, deployment: Deployment, body: EncodeRequest) -> tuple[Order, Way]:
    """What to compute, and how to answer. A function, so that no handler holds ``body`` with its files as it waits."""
    way = way_of(request, body, OFFERED)
    return encode_order(state, body, deployment, way.media), way


def _check(body: EncodeRequest, model: Model, state: State) -> Sequence[int]:
    """The class of every picture. Raises InvalidField, UnknownVersion."""
    if not starts_from_pictures(model):
        raise InvalidField.of("model", f"{model.name} cannot encode", ", ".join(model.manifest.capabilities))
    check_version(body.version, model)
    problems = meaning_problems(body, model)
    if encodes(model) and denoises(model):
        given = [name for name in ("steps", "preview_every", "preview_kind") if getattr(body, name) is not None]
        says = f"means nothing to {model.name}, which encodes at once"
        problems += [FieldProblem(f"#/{name}", says, "leave it out") for name in given]
        if body.layout == "film":
            problems.append(FieldProblem("#/layout", f"{model.name} decodes at once: there is no film", "any but film"))
    most = min(model.max_steps, state.settings.max_steps)
    if body.steps is not None and denoises(model) and body.steps > most:
        problems.append(FieldProblem("#/steps", f"{body.steps} is too many for {model.name}", f"1 to {most}"))
    most = min(MOST, state.settings.max_images)
    if not 1 <= body.count <= most:
        problems.append(FieldProblem("#/image", f"{body.count} is not a number of pictures", f"1 to {most}"))
    asked = body.class_label if isinstance(body.class_label, list) else [body.class_label] * body.count
    if len(asked) != body.count:
        says = f"{len(asked)} classes are not one for each of {body.count} pictures"
        problems.append(FieldProblem("#/class_label", says, f"one class, or a list of {body.count}"))
    labels = labels_of(asked, model, "class_label", problems)
    if problems:
        raise InvalidField(problems)
    return [model.manifest.null_label if label is None else label for label in labels]


def _row(model: Model, row: RowSpec, code: Latent) -> RowSpec:
    """``row`` for the picture that ``code`` is of."""
    return decoded(model, row, mean_of(code)) if encodes(model) else row._replace(latent=tensor_of(code))
