"""GET /latent-map/{model}: training pictures on a plane of a model's latent space, and pictures in between."""

from collections.abc import Sequence
from urllib.parse import urlencode

import numpy as np
from pydantic import BaseModel, Field, JsonValue
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.order import Order
from service.api.request.body import parse_query
from service.api.request.layout import Layout, layout_of
from service.api.request.negotiation import JSON, PICTURES, media_of
from service.api.request.resolve import check_version, field_problems, labels_of
from service.api.request.response_mode import ResponseMode
from service.api.request.schemas import ClassLabel, Params, Task
from service.api.response.caching import cacheable
from service.api.response.documented import COMPUTE_ERRORS, IMAGE_HEADERS, NOT_MODIFIED, image_content
from service.api.response.reproduce import root_of
from service.api.response.respond import respond
from service.api.state import State, deployment_of, state_of
from service.engine.deployment import Deployment
from service.engine.initial_latents import decoded, plane_latents
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.errors import FieldProblem, InvalidField
from service.sampling.latent_map import LatentMap
from service.sampling.solvers import EMPTY_PLAN

#: Default columns and rows of the grid.
SIDE = 8

#: JSON is the map as numbers, the others the grid of pictures.
OFFERED = (JSON, *(media for media in PICTURES if media != JSON))


class LatentMapRequest(Task):
    """The query of GET /latent-map/{model}."""

    task = "latent_map"

    across: int = Field(default=SIDE, ge=2, description="Columns of the grid.")
    down: int = Field(default=SIDE, ge=2, description="Rows of the grid.")
    class_label: ClassLabel | None = Field(
        default=None, description="Index or name of the class of all pictures. Absent, or 'none': no class."
    )

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.across * self.down

    @property
    def columns(self) -> int:
        """Columns of the single image that shows all pictures."""
        return self.count if self.layout == "strip" else self.across


class Bounds(BaseModel):
    """The range of the points."""

    x: tuple[float, float]
    y: tuple[float, float]


class Grid(BaseModel):
    """The grid as one image without gaps; the picture in column i and row j is of the point x[i], y[j]."""

    url: str
    x: list[float] = Field(description="From left to right.")
    y: list[float] = Field(description="From top to bottom.")


class LatentMapAnswer(BaseModel):
    """The map as numbers. The latent of a point x, y is origin + x axes[0] + y axes[1]."""

    model: str
    model_version: str
    class_names: tuple[str, ...]
    points: list[tuple[float, float, int]] = Field(description="x, y and class of each training picture.")
    bounds: Bounds
    grid: Grid
    decode: str = Field(description="URL template of the picture of a point x, y.")
    origin: JsonValue = Field(description="(*latent_shape)")
    axes: JsonValue = Field(description="(2, *latent_shape)")


async def get_latent_map(request: Request) -> Response:
    """The training pictures on the plane of their largest variance, as numbers; or a grid of pictures over that plane.

    JSON, unless `format` or Accept selects pictures. /generate/{model}?point=x&point=y decodes one point.
    """
    state = state_of(request)
    deployment = deployment_of(request, state, request.path_params["model"])
    model = deployment.model
    body = parse_query(LatentMapRequest, request)
    media = media_of(request, body.format, OFFERED)
    if model.latent_map is None:
        raise InvalidField.of("model", f"{model.name} has no latent map", _with_maps(state))
    label = _check(body, model, state)
    layout = layout_of(body, media, model.manifest.image_shape, 0, state.settings)
    if media == JSON:
        answer = _answer(model, model.latent_map, body, root_of(request))
        headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
        return Response(answer.model_dump_json(), media_type=JSON, headers=headers)
    order = _order(body, deployment, model.latent_map, media, label, layout)
    return await respond(request, state, cacheable(order), ResponseMode(media))


_CONTENT = {**image_content(), JSON: LatentMapAnswer}

ROUTE = route(
    "/latent-map/{model}",
    {
        "GET": Operation(
            get_latent_map,
            answers={200: Answer("The map, or images.", _CONTENT, (*IMAGE_HEADERS, "ETag")), 304: NOT_MODIFIED},
            errors=(406, *COMPUTE_ERRORS),
            query=LatentMapRequest,
            headers=["If-None-Match"],
        )
    },
)


def _with_maps(state: State) -> str:
    names = [name for name, served in state.engine.deployments.items() if served.model.latent_map is not None]
    return ", ".join(names) or "no served model has one"


def _check(body: LatentMapRequest, model: Model, state: State) -> int:
    """The label of the pictures. Raises InvalidField, UnknownVersion."""
    check_version(body.version, model)
    problems = field_problems(body, model)
    if body.stream:
        problems.append(FieldProblem("#/stream", "is not supported: a map is answered at once", "leave it out"))
    if body.count > state.settings.max_images:
        says = f"{body.count} pictures are too many for one request"
        problems.append(FieldProblem("#/across", says, f"across times down up to {state.settings.max_images}"))
    label = labels_of([body.class_label], model.manifest, "class_label", problems)[0]
    if problems:
        raise InvalidField(problems)
    return model.manifest.null_label if label is None else label


def _answer(model: Model, shown: LatentMap, body: LatentMapRequest, root: str) -> LatentMapAnswer:
    x, y = _lines(shown, body)
    fields = body.model_dump(exclude_unset=True) | {"format": "png", "layout": "sprite"}
    points = zip(shown.points[:, 0].tolist(), shown.points[:, 1].tolist(), shown.labels.tolist(), strict=True)
    return LatentMapAnswer(
        model=model.name,
        model_version=model.manifest.version,
        class_names=model.manifest.class_names,
        points=[(round(across, 4), round(up, 4), label) for across, up, label in points],
        bounds=Bounds(x=(x[0], x[-1]), y=(y[-1], y[0])),
        grid=Grid(url=f"{root}/latent-map/{model.name}?{urlencode(fields)}", x=x, y=y),
        decode=f"{root}/generate/{model.name}?point={{x}}&point={{y}}",
        origin=shown.origin.tolist(),
        axes=shown.axes.tolist(),
    )


def _order(
    body: LatentMapRequest, deployment: Deployment, shown: LatentMap, media: str, label: int, layout: Layout
) -> Order:
    model = deployment.model
    x, y = _lines(shown, body)
    latents = plane_latents(model, np.array([[across, up] for up in y for across in x]))
    params: Params = {"across": body.across, "down": body.down, "class_label": body.class_label, "scale": body.scale}
    row = RowSpec(0, label, 1.0, EMPTY_PLAN)
    return Order(
        deployment=deployment,
        rows=[decoded(model, row, latent) for latent in latents],
        asked=body,
        media=media,
        path=f"/latent-map/{model.name}",
        params=params,
        seeds=[None] * body.count,
        layout=layout,
        kind="latent-map",
    )


def _lines(shown: LatentMap, body: LatentMapRequest) -> tuple[Sequence[float], Sequence[float]]:
    """The x of the grid's columns, rising, and the y of its rows, falling: the range of all points, ends included."""
    low, high = shown.points.min(axis=0), shown.points.max(axis=0)
    across = np.linspace(low[0], high[0], body.across).tolist()
    return across, np.linspace(high[1], low[1], body.down).tolist()
