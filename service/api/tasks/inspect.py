"""POST /inspect: the parameters in a PNG of this service, and commands that reproduce it."""

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api.http.endpoint import route
from service.api.http.openapi import Answer, Operation
from service.api.request.body import off_loop, read_request
from service.api.request.negotiation import JSON, PNG
from service.api.request.schemas import InspectRequest, Parameters
from service.api.request.uploads import check_file
from service.api.response.documented import BODY_ERRORS
from service.api.response.reproduce import curl, origin_of, python
from service.api.response.schemas import InspectAnswer
from service.api.state import state_of
from service.errors import InvalidField
from service.images import png_parameters


async def post_inspect(request: Request) -> Response:
    """Read the parameters that a PNG of this service carries, with commands that reproduce the picture.

    The body is the picture, JSON with base64, or a form. 422 if it carries none: pictures saved by another program
    often lose them.
    """
    state = state_of(request)
    body = await read_request(request, state.settings, InspectRequest, pictures=1)
    check_file("image", body.image, state.settings.max_image_bytes)
    found = await off_loop(state.settings, body.image, _parameters, body.image)
    deployment = state.engine.deployments.get(found.model)
    again = (origin_of(request), found.path, found.params, PNG, f"{found.model}.png")
    answer = InspectAnswer(
        **found.model_dump(),
        served_version=deployment.model.manifest.version if deployment else None,
        curl=curl(*again),
        python=python(*again),
    )
    return Response(answer.model_dump_json(), media_type=JSON, headers={"Cache-Control": "no-store"})


ROUTE = route(
    "/inspect",
    {
        "POST": Operation(
            post_inspect,
            answers={200: Answer("What the image says.", {JSON: InspectAnswer}, ["Cache-Control"])},
            errors=(*BODY_ERRORS, 415, 422),
            body=[InspectRequest],
        )
    },
)


def _parameters(png: bytes) -> Parameters:
    """The parameters in ``png``, checked like a request because they are untrusted. Raises InvalidField."""
    text = png_parameters(png)
    try:
        if text is not None:
            return Parameters.model_validate_json(text)
    except ValidationError:
        pass
    raise InvalidField.of("image", "carries no parameters of this service", "a PNG exactly as the service sent it")
