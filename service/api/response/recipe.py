"""What a job is computed from, as bytes: its request with the seeds that were drawn, and its uploads.

It is checked again when it is read, like a request: by another release, or for another version of the model.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request

from service.api.order import Order
from service.api.request.arrays import Array, to_base64
from service.api.request.schemas import Task
from service.api.response.packed import pack, unpack
from service.errors import BadRequest

Schema = TypeVar("Schema", bound=Task)

#: The name under which edits are stored; they have no task of their own in a model's card.
EDIT = "edit"


class Recipe(NamedTuple):
    """``task`` selects what builds the order; ``fields`` are the request's, by their names; ``files`` its uploads.

    ``media`` and ``live`` are how the request was answered; ``origin`` is its scheme, Host header and root path.
    """

    task: str
    model: str
    media: str
    live: bool
    origin: tuple[str, str, str]
    fields: Mapping[str, Any]
    files: Mapping[str, bytes]

    def read(self, schema: type[Schema], **more: object) -> Schema:
        """The request with the fields ``more``. Raises BadRequest where this release has no such request."""
        try:
            return schema.model_validate({**self.fields, **more})
        except ValidationError as failure:
            reason = failure.errors(include_url=False, include_input=False)[0]["msg"]
            raise BadRequest(f"The job cannot be computed again by this release: {reason}.") from None

    def request(self, client: str) -> Request:
        """As much of the HTTP request of ``client`` as computing a job takes."""
        scheme, host, root = self.origin
        headers = [(b"host", host.encode("latin-1"))]
        scope = {"type": "http", "scheme": scheme, "root_path": root, "client": (client, 0), "headers": headers}
        return Request(scope)


def recipe_of(order: Order, request: Request, *, live: bool) -> bytes:
    """The recipe of an order that is not begun."""
    asked = order.asked if order.edited is None else order.edited
    fields = _plain(asked) | _previews(order.asked)
    for name in ("seed", "from", "to", "points"):
        if name in order.params:
            fields[name] = _with_seeds(fields.get(name), order.params[name])
    origin = (request.scope["scheme"], request.headers.get("host", ""), request.scope.get("root_path", ""))
    files = {} if order.uploads is None else order.uploads.files
    task = order.asked.task if order.edited is None else EDIT
    head = [task, order.model.name, order.media, live, origin, fields, [*files]]
    return pack(head, [*files.values()])


def unpack_recipe(packed: bytes) -> Recipe:
    """The recipe of ``recipe_of``."""
    (task, model, media, live, origin, fields, names), files = unpack(packed)
    return Recipe(task, model, media, live, tuple(origin), fields, dict(zip(names, files, strict=True)))


def _plain(request: BaseModel) -> dict[str, Any]:
    """The fields that ``request`` sets, without its files, as JSON values."""
    names = {name: field.alias or name for name, field in type(request).model_fields.items()}
    given = {name: getattr(request, name) for name in request.model_fields_set}
    return {names[name]: _value(value) for name, value in given.items() if not _is_file(value)}


def _value(value: Any) -> Any:  # noqa: ANN401  (any field's value)
    if isinstance(value, Array):
        return to_base64(value.numpy())
    if isinstance(value, BaseModel):
        return _plain(value)
    return [_value(each) for each in value] if isinstance(value, list) else value


def _is_file(value: object) -> bool:
    """Whether a field held files: they were taken out, and None is in their place."""
    return value is None or isinstance(value, bytes) or (isinstance(value, list) and not any(value) and None in value)


def _previews(asked: Task) -> dict[str, Any]:
    """The previews that an answer shows; a dialect sets them after the order is made."""
    given = {"preview_every": asked.preview_every, "preview_kind": asked.preview_kind}
    return {name: value for name, value in given.items() if value is not None}


def _with_seeds(asked: Any, params: Any) -> Any:  # noqa: ANN401  (any field's value)
    """A field, or its points, with the seeds that ``params`` reports."""
    if isinstance(params, list):
        return [_with_seeds(*each) for each in zip(asked, params, strict=True)]
    if isinstance(params, dict):
        return (asked or {}) | ({"seed": params["seed"]} if "seed" in params else {})
    return params
