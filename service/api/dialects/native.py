"""What the dialects share: from their fields to those of /generate."""

from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, create_model

from service.api.request.fields import Fields, tell_absent
from service.api.request.resolve import class_problem
from service.api.request.schemas import GenerateRequest
from service.contract.classes import NO_CLASS, ClassNotFound, label_of
from service.contract.manifest import Manifest
from service.errors import BadRequest, FieldProblem

MAX_SCALE = 32

#: Fields of /generate that dialects have under the same names: what decides the pictures, and how long to wait.
SAMPLING = (
    "seed",
    "class_label",
    "negative_class",
    "steps",
    "guidance_scale",
    "solver",
    "eta",
    "truncation",
    "timeout_ms",
)


def _tell_absent(schema: dict[str, Any]) -> None:
    """Write into the JSON schema of a body that its optional fields, and unknown ones, may be null or empty."""
    tell_absent(schema, {"enum": [None, ""]})
    schema["additionalProperties"] = schema["additionalProperties"] or {"enum": [None, ""]}


class DialectRequest(Fields):
    """A body in the words of another service.

    Its clients write null, an empty text or an empty file where a user gave nothing, for fields unknown here as well.
    """

    model_config = ConfigDict(json_schema_extra=_tell_absent)
    absent = (None, "", b"")

    #: Fields that are those of /generate.
    shared: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def optional(cls, name: str) -> bool:
        """Whether ``name`` may be left out, or is unknown."""
        field = cls.model_fields.get(name)
        return field is None or not field.is_required()

    def native(self, **fields: Any) -> GenerateRequest:  # noqa: ANN401  (whatever the field takes)
        """What it says in the words of /generate: the fields that it shares, as far as given, and ``fields``."""
        given = {name: getattr(self, name) for name in self.shared & self.model_fields_set}
        return GenerateRequest(**given | fields)


_NATIVE = GenerateRequest.model_fields

Own = TypeVar("Own", bound=DialectRequest)


def with_native(own: type[Own], *names: str) -> type[Own]:
    """``own`` with the fields ``names`` of /generate, as they are there."""
    fields: dict[str, Any] = {name: (_NATIVE[name].annotation, _NATIVE[name]) for name in names}
    extended = create_model(own.__name__.lstrip("_"), __base__=own, __doc__=own.__doc__, **fields)
    extended.shared = frozenset(names)
    return extended


def class_of_prompt(prompt: str, manifest: Manifest) -> str:
    """The class_label that ``prompt`` means: models here know classes, and no words. A blank one is "no class".

    Raises BadRequest, which names the classes.
    """
    asked = prompt.strip()
    if not asked:
        return NO_CLASS
    names = manifest.class_names
    try:
        return [*names, NO_CLASS][label_of(asked, names)]
    except ClassNotFound as failure:
        problem = class_problem("prompt", manifest, failure)
        message = f"prompt: {manifest.name} reads no text. A prompt is one of: {problem.allowed}; or nothing."
        raise BadRequest(message, [problem]) from None


def scale_of(field: str, width: int, height: int, manifest: Manifest) -> int:
    """By what to enlarge the model's pictures for ``width`` x ``height`` pixels. Raises BadRequest on ``field``."""
    _, own_height, own_width = manifest.image_shape
    scale = width // own_width
    if 1 <= scale <= MAX_SCALE and (width, height) == (scale * own_width, scale * own_height):
        return scale
    allowed = f"{own_width}x{own_height} times a whole number up to {MAX_SCALE}"
    raise BadRequest(
        f"{field}: {manifest.name} makes no pictures of {width}x{height} pixels. Allowed: {allowed}.",
        [FieldProblem(f"#/{field}", "is no size of the model's pictures", allowed)],
    )
