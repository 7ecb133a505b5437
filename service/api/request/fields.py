"""What all bodies of requests have in common: strictness, and what counts as a field that is left out."""

from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

_ABOUT_FIELD = frozenset({"title", "description", "default", "examples"})


def tell_absent(schema: dict[str, Any], absent: dict[str, Any]) -> None:
    """Write into the JSON ``schema`` of a body that its optional fields may also be of the schema ``absent``."""
    for name in schema["properties"].keys() - schema.get("required", ()):
        field = schema["properties"][name]
        if "anyOf" not in field:
            field["anyOf"] = [{key: field.pop(key) for key in field.keys() - _ABOUT_FIELD}]
        if {"type": "null"} not in field["anyOf"]:
            field["anyOf"].append(absent)


def _tell_null(schema: dict[str, Any]) -> None:
    tell_absent(schema, {"type": "null"})


class Fields(BaseModel):
    """What a request holds. An optional field with a value of ``absent`` counts as left out."""

    # Strict, so that "3" or true is told apart from 3; a NaN guidance scale would poison its row.
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, json_schema_extra=_tell_null
    )

    #: Clients generated from a schema write null where they have no value.
    absent: ClassVar[tuple[object, ...]] = (None,)

    @classmethod
    def optional(cls, name: str) -> bool:
        """Whether ``name``, as it is in a request, may be left out."""
        return name in _optional(cls)

    @model_validator(mode="before")
    @classmethod
    def _without_absent(cls, fields: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
        if not isinstance(fields, dict) or not any(value in fields.values() for value in cls.absent):
            return fields
        return {name: value for name, value in fields.items() if value not in cls.absent or not cls.optional(name)}


@cache
def _optional(schema: type[BaseModel]) -> frozenset[str]:
    return frozenset(field.alias or name for name, field in schema.model_fields.items() if not field.is_required())
