"""POST /interpolate: pictures along the path through the latents of seeds, of pictures that are sent, or given ones."""

from starlette.requests import Request
from starlette.responses import Response

from service.api.body import read_request
from service.api.docs import operation
from service.api.endpoint import route
from service.api.measures import Walk
from service.api.negotiation import PICTURES
from service.api.path_points import Ends, ends_of, guided, key_points
from service.api.rendering import Order, check_form
from service.api.resolve import resolve
from service.api.respond import respond
from service.api.schemas import InterpolateRequest, Params
from service.api.sheet import film_of, shown_params
from service.api.state import State, deployment_of, state_of
from service.api.way import way_of
from service.engine.engine import Deployment
from service.engine.starts import Leg, blended, legs, path_latents
from service.sampling.interpolate import InterpolationMethod, positions


async def post_interpolate(request: Request) -> Response:
    """Make the frames of a path between two pictures of one model, or through up to eight.

    The field format, else Accept, chooses the form: as of /generate, but one image is a strip, and image/gif plays.
    Without class_label, all frames are of the class of the first point. Models that denoise walk from the interpolated
    noise with a deterministic solver, and may be led from class to class.
    """
    state = state_of(request)
    body = await read_request(request, state.settings, InterpolateRequest, pictures=2)
    deployment = deployment_of(request, state, body.model)
    way = way_of(request, body)
    return await respond(request, state, await interpolate_order(request, state, body, deployment, way.media), way)


ROUTE = route("/interpolate", {"POST": post_interpolate})

OPERATIONS = {"/interpolate": {"post": operation(post_interpolate, PICTURES, body=InterpolateRequest)}}


async def interpolate_order(
    request: Request, state: State, body: InterpolateRequest, deployment: Deployment, media: str
) -> Order:
    """``body`` for ``deployment``, ready to compute.

    Raises InvalidField, UnknownVersion; and as ``starts.begin``, for what is uploaded is read and encoded here.
    """
    model = deployment.model
    resolved = resolve(body, model, state.settings)
    points = key_points(body, model, resolved)
    resolved = guided(body, model, resolved, points)
    check_form(body, media, model.manifest.image_shape, resolved.plan.steps)
    ends = await ends_of(request, state, body, deployment, resolved, points)
    method: InterpolationMethod = ends.natural_method if body.method == "auto" else body.method
    position = positions(len(points), body.frames, body.easing, loop=body.loop)
    latents, way = path_latents(ends.latents, position, method), legs(position, len(points))
    film = film_of(body, resolved.plan.steps)
    row = resolved.row(points[0].seed or 0)._replace(film=film)
    rows = [
        blended(row._replace(latent=latent), points[leg.before].label, points[leg.after].label, leg.share)
        for latent, leg in zip(latents, way, strict=True)
    ]
    params: Params = {"model": model.name, **ends.params, "frames": body.frames, "method": method}
    return Order(
        deployment=deployment,
        rows=rows,
        asked=body,
        media=media,
        path="/interpolate",
        params={**params, **_manner(body), **resolved.params, "scale": body.scale, **shown_params(body, film)},
        seeds=[points[leg.before].seed if leg.share == 0 else None for leg in way],
        kind="interpolation",
        warnings=ends.warnings,
        walk=_walk(ends, way, [float(latent.norm()) for latent in latents]),
    )


def _manner(body: InterpolateRequest) -> Params:
    """How the path is walked, where it is not the usual way."""
    easing: Params = {} if body.easing == "linear" else {"easing": body.easing}
    return easing | ({"loop": True} if body.loop else {})


def _walk(ends: Ends, way: list[Leg], norms: list[float]) -> Walk:
    sent = [ends.sent[leg.before] if leg.share == 0 else None for leg in way]
    return Walk([leg.before + leg.share for leg in way], norms, sent)
