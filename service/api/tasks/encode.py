"""POST /encode/{model}: pictures to a model's latents, and their reconstructions."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.endpoint import route
from service.api.order import Codes, Compute, Order, Uploads, without
from service.api.request.body import read_request
from service.api.request.capabilities import encodes, inverts
from service.api.request.layout import layout_of, layout_params
from service.api.request.negotiation import EVENT_STREAM, JSON, PICTURES
from service.api.request.resolve import (
    check_version,
    field_problems,
    first_of_each,
    labels_of,
    most_steps,
    step_problems,
)
from service.api.request.response_mode import ResponseMode, response_mode_of
from service.api.request.schemas import ClassLabel, Params, Task
from service.api.request.start_fields import class_count_problem
from service.api.request.uploads import Upload
from service.api.response.documented import image_operation
from service.api.response.respond import respond
from service.api.state import State, deployment_of, state_of
from service.api.tasks.starts import data_uri, encoded, encoding, inverted, inverting, read_upload
from service.contract.classes import NO_CLASS
from service.engine.deployment import Deployment
from service.engine.initial_latents import decoded, image_tensor, mean_of, tensor_of
from service.engine.model import Model
from service.engine.results import Latent
from service.engine.rows import RowSpec
from service.errors import FieldProblem, InvalidField
from service.sampling.solvers import EMPTY_PLAN
from service.settings import Settings

#: Default steps of an inversion: more steps reduce its error.
STEPS = 50

#: JSON first: the numbers are what clients of this endpoint want.
OFFERED = (JSON, *(media for media in PICTURES if media != JSON), EVENT_STREAM)


class EncodeRequest(Task):
    """The body of POST /encode/{model}."""

    task = "encode"
    repeatable = frozenset({"image", "class_label"})

    image: list[Upload] | Upload = Field(
        description="One picture, or up to eight: base64, data URIs, or files of a form; one may be the body itself."
    )
    class_label: ClassLabel | list[ClassLabel] | None = Field(
        default=None,
        description="Index or name of the pictures' class, or a list with one for each. Absent, or 'none': no class.",
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


#: Maximum number of pictures in one request.
MOST = 8


async def post_encode(request: Request) -> Response:
    """Encode pictures and reconstruct them.

    A model with an encoder returns mean and log-variance; a pixel diffusion model the noise that DDIM inversion finds
    in `steps` steps. JSON contains these as `codes`, with the error of each reconstruction, and the reconstructions as
    `images`. application/x-npy is float32: (n, 2, *latent_shape), mean and log-variance, or (n, *latent_shape), the
    noise. The other formats contain the reconstructions.
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
    """``body`` for ``deployment``, its fields checked. Raises InvalidField, UnknownVersion."""
    model = deployment.model
    labels = _check(body, model, state)
    steps = body.steps or min(STEPS, most_steps(model, state.settings))
    plan = EMPTY_PLAN if encodes(model) else model.plan("ddim", steps)
    layout = layout_of(body, media, model.manifest.image_shape, plan.steps, state.settings)
    params: Params = {"class_label": [[*model.manifest.class_names, NO_CLASS][label] for label in labels]}
    return Order(
        deployment=deployment,
        rows=[RowSpec(0, label, 1.0, plan, film=layout.film) for label in labels],
        asked=without(body, bytes),
        media=media,
        path=f"/encode/{model.name}",
        params=params | ({"steps": steps} if plan.steps else {}) | layout_params(body, layout),
        seeds=[None] * len(labels),
        layout=layout,
        kind="encoding",
        uploads=Uploads(dict(zip(_fields(len(labels)), body.pictures, strict=True))),
        before=encoding(model, len(labels)) or inverting(model, len(labels), steps),
        begin=partial(_begin, state.settings, steps),
    )


async def _begin(settings: Settings, steps: int, order: Order, compute: Compute) -> Order:
    """Rows that begin from the encoded or inverted uploads."""
    model = order.model
    fitted = [await read_upload(order, field, settings) for field in _fields(len(order.rows))]
    pictures, labels = [image_tensor(each.pixels) for each in fitted], [row.label for row in order.rows]
    codes = await (
        encoded(pictures, labels, compute) if encodes(model) else inverted(model, pictures, labels, steps, compute)
    )
    image: Params = {"image": [data_uri(each.pixels) for each in fitted]}
    return order._replace(
        rows=[_row(model, row, code) for row, code in zip(order.rows, codes, strict=True)],
        params=image | order.params,
        warnings=[warning for each in fitted for warning in each.warnings],
        codes=Codes(np.stack([*codes]), [each.pixels for each in fitted], encodes(model)),
    )


def _fields(count: int) -> Sequence[str]:
    """The field names of ``count`` pictures."""
    return ["image"] if count == 1 else [f"image/{index}" for index in range(count)]


def _ordered(request: Request, state: State, deployment: Deployment, body: EncodeRequest) -> tuple[Order, ResponseMode]:
    """The order, and how to answer. A function of its own, so that no waiting handler holds ``body`` with its files."""
    mode = response_mode_of(request, body, OFFERED)
    return encode_order(state, body, deployment, mode.media), mode


def _check(body: EncodeRequest, model: Model, state: State) -> Sequence[int]:
    """The label of each picture. Raises InvalidField, UnknownVersion."""
    if not (encodes(model) or inverts(model)):
        raise InvalidField.of("model", f"{model.name} cannot encode", ", ".join(model.manifest.capabilities))
    check_version(body.version, model)
    problems = field_problems(body, model) + step_problems(body, model, state.settings)
    most = min(MOST, state.settings.max_images)
    if not 1 <= body.count <= most:
        problems.append(FieldProblem("#/image", f"{body.count} pictures are not allowed", f"1 to {most}"))
    asked = body.class_label if isinstance(body.class_label, list) else [body.class_label] * body.count
    if (problem := class_count_problem(asked, body.count)) is not None:
        problems.append(problem)
    labels = labels_of(asked, model.manifest, "class_label", problems)
    if problems:
        raise InvalidField(first_of_each(problems))
    return [model.manifest.null_label if label is None else label for label in labels]


def _row(model: Model, row: RowSpec, code: Latent) -> RowSpec:
    """``row``, beginning from ``code``."""
    return decoded(model, row, mean_of(code)) if encodes(model) else row._replace(latent=tensor_of(code))
