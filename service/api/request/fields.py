"""The base of all request schemas: strict types, and which values count as an absent field."""

from functools import cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

_ABOUT_FIELD = frozenset({"title", "description", "default", "examples"})


def document_absent(schema: dict[str, Any], absent: dict[str, Any]) -> None:
    """Let every optional field of a body's JSON ``schema`` also match the schema ``absent``."""
    for name in schema["properties"].keys() - schema.get("required", ()):
        field = schema["properties"][name]
        if "anyOf" not in field:
            field["anyOf"] = [{key: field.pop(key) for key in field.keys() - _ABOUT_FIELD}]
        if {"type": "null"} not in field["anyOf"]:
            field["anyOf"].append(absent)


def _document_null(schema: dict[str, Any]) -> None:
    document_absent(schema, {"type": "null"})


class Fields(BaseModel):
    """A request body. An optional field whose value is in ``absent`` counts as absent."""

    # Strict: "3" and true are not 3. No NaN: a guidance scale of NaN would spoil its row.
    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, frozen=True, json_schema_extra=_document_null
    )

    #: Generated clients write null for a field without a value.
    absent: ClassVar[tuple[object, ...]] = (None,)

    @classmethod
    def optional(cls, name: str) -> bool:
        """Whether the field ``name`` of a request may be absent."""
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
