"""Shared by the dialects: the base of their schemas, and translation to fields of /generate."""

from typing import Any, ClassVar, TypeVar

from pydantic import ConfigDict, JsonValue, create_model

from service.api.request.fields import Fields, document_absent
from service.api.request.resolve import labels_of
from service.api.request.schemas import MAX_SCALE, GenerateRequest
from service.contract.classes import NO_CLASS
from service.contract.manifest import Manifest
from service.errors import BadRequest, FieldProblem


def _document_absent(schema: dict[str, Any]) -> None:
    """Let optional and unknown fields of a body's JSON schema be null or empty."""
    document_absent(schema, {"enum": [None, ""]})
    schema["additionalProperties"] = schema["additionalProperties"] or {"enum": [None, ""]}


class DialectRequest(Fields):
    """A body in another API's format.

    Its clients send null, an empty text or an empty file for values that were not set, even for fields unknown here.
    """

    model_config = ConfigDict(json_schema_extra=_document_absent)
    absent = (None, "", b"")

    #: Fields with the same name and meaning as in /generate.
    shared: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def optional(cls, name: str) -> bool:
        """Whether ``name`` may be absent, or is unknown."""
        field = cls.model_fields.get(name)
        return field is None or not field.is_required()

    def native(self, **fields: Any) -> GenerateRequest:  # noqa: ANN401  (any field's value)
        """The request to /generate with ``fields`` and the shared fields that are set."""
        given = {name: getattr(self, name) for name in self.shared & self.model_fields_set}
        return GenerateRequest(**given | fields)


_NATIVE = GenerateRequest.model_fields

Own = TypeVar("Own", bound=DialectRequest)


def with_native(own: type[Own], *names: str) -> type[Own]:
    """``own`` extended by the fields ``names`` of /generate."""
    fields: dict[str, Any] = {name: (_NATIVE[name].annotation, _NATIVE[name]) for name in names}
    extended = create_model(own.__name__.lstrip("_"), __base__=own, __doc__=own.__doc__, **fields)
    extended.shared = frozenset(names)
    return extended


def prompt_fields(prompt: str, manifest: Manifest) -> dict[str, JsonValue]:
    """The field of /generate that ``prompt`` means. Raises as ``class_of_prompt``."""
    return {"prompt": prompt} if manifest.reads_prompts else {"class_label": class_of_prompt(prompt, manifest)}


def class_of_prompt(prompt: str, manifest: Manifest) -> str:
    """The class_label of ``prompt``, which must name a class of a model that reads no text. Blank means "no class".

    Raises BadRequest, which lists the classes.
    """
    problems: list[FieldProblem] = []
    (label,) = labels_of([prompt.strip() or NO_CLASS], manifest, "prompt", problems)
    if label is None:
        allowed = f"{'' if manifest.needs_class else 'empty or '}one of: {problems[0].allowed}"
        raise BadRequest(f"prompt: {manifest.name} reads no text. A prompt must be {allowed}.", problems)
    return [*manifest.class_names, NO_CLASS][label]


def size_fields(field: str, width: int, height: int, manifest: Manifest) -> dict[str, JsonValue]:
    """The fields of /generate for pictures of ``width`` x ``height`` pixels: a size, else a scale.

    Raises BadRequest, which names ``field``.
    """
    pipeline = manifest.pipeline
    if pipeline is None or not manifest.has_sizes:
        return {"scale": scale_of(field, width, height, manifest)}
    try:
        pipeline.sizes.require(width, height)
    except ValueError as failure:
        raise BadRequest(
            f"{field}: {manifest.name} cannot generate {width}x{height} pixels: {failure}.",
            [FieldProblem(f"#/{field}", "is not a size that the model supports", str(failure))],
        ) from None
    return {"width": width, "height": height}


def scale_of(field: str, width: int, height: int, manifest: Manifest) -> int:
    """The scale at which pictures have ``width`` x ``height`` pixels. Raises BadRequest, which names ``field``."""
    _, own_height, own_width = manifest.image_shape
    scale = width // own_width
    if 1 <= scale <= MAX_SCALE and (width, height) == (scale * own_width, scale * own_height):
        return scale
    allowed = f"{own_width}x{own_height} times an integer up to {MAX_SCALE}"
    raise BadRequest(
        f"{field}: {manifest.name} cannot generate {width}x{height} pixels. Allowed: {allowed}.",
        [FieldProblem(f"#/{field}", "is not a size that the model supports", allowed)],
    )
