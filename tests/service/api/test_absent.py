"""Null, and what else clients send where a user gave nothing: for every optional field of every body."""

import base64
import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.testclient import TestClient

import service.app  # noqa: F401  (imports every schema)
from service.api.dialects.native import DialectRequest
from service.api.request.fields import Fields
from tests.service.api.conftest import JSON


def _png() -> str:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((8, 8)).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


PNG = _png()
TENSOR = {"name": "seed", "shape": [1], "datatype": "INT64", "data": [7]}

#: The required fields of each schema that has any, with values that it takes.
REQUIRED: Mapping[str, Mapping[str, Any]] = {
    "EditRequest": {"model": "ddpm", "prompt": "bag", "image": PNG},
    "EncodeRequest": {"image": PNG},
    "HuggingFaceRequest": {"inputs": "bag"},
    "Img2ImgRequest": {"init_images": [PNG]},
    "ImagesRequest": {"model": "ddpm", "prompt": "bag"},
    "InspectRequest": {"image": PNG},
    "InterpolateRequest": {"model": "ddpm"},
    "Lora": {"name": "ink"},
    "Parameters": {"model": "vae", "model_version": "0123abcd", "path": "/generate/vae", "params": {}},
    "_EditRequest": {"model": "ddpm", "prompt": "bag", "image": PNG},
    "_ImagesRequest": {"model": "ddpm", "prompt": "bag"},
    "_Input": {"name": "seed", "shape": [1], "datatype": "INT64"},
    "_Output": {"name": "images"},
    "_Size": {"width": 8, "height": 8},
}


def schemas(base: type[Fields] = Fields) -> Iterator[type[Fields]]:
    for each in base.__subclasses__():
        if each.__module__.startswith("service."):
            yield each
            yield from schemas(each)


SCHEMAS: list[type[Fields]] = sorted(set(schemas()), key=lambda schema: (schema.__name__, schema.__module__))
CASES = [
    (schema, field.alias or name, value)
    for schema in SCHEMAS
    for name, field in schema.model_fields.items()
    if not field.is_required()
    for value in schema.absent
]


def required_of(schema: type[Fields]) -> dict[str, Any]:
    given = REQUIRED.get(schema.__name__, {})
    return {name: value for name, value in given.items() if name in schema.model_fields}


def read(schema: type[Fields], fields: Mapping[str, Any]) -> tuple[BaseModel, set[str]]:
    """What ``fields`` mean, by either way in: JSON, or a form's where values are text and bytes."""
    if any(isinstance(value, bytes) for value in fields.values()):
        found = schema.model_validate(dict(fields), strict=False)
    else:
        found = schema.model_validate_json(json.dumps(fields))
    return found, found.model_fields_set


@pytest.mark.parametrize(("schema", "field", "value"), CASES)
def test_a_field_without_a_value_is_as_left_out(schema: type[Fields], field: str, value: object) -> None:
    required = required_of(schema)
    assert read(schema, {**required, field: value}) == read(schema, required)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_only_optional_fields_may_be_null(schema: type[Fields]) -> None:
    required = required_of(schema)
    for name in required:
        with pytest.raises(ValidationError):
            read(schema, {**required, name: None})
    unknown = {**required, "stepz": None}
    if issubclass(schema, DialectRequest):
        assert read(schema, unknown) == read(schema, required)
    else:
        with pytest.raises(ValidationError):
            read(schema, unknown)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_document_says_so(schema: type[Fields]) -> None:
    document = schema.model_json_schema(by_alias=True)
    for name, field in document["properties"].items():
        forms = field.get("anyOf", [])
        takes_null = {"type": "null"} in forms or {"enum": [None, ""]} in forms
        assert takes_null == (name not in document.get("required", [])), name


def test_there_are_cases() -> None:
    assert len(CASES) > 200


def nulls(schema_name: str) -> dict[str, None]:
    (schema,) = {each for each in schemas() if each.__name__ == schema_name}
    return {field.alias or name: None for name, field in schema.model_fields.items() if not field.is_required()}


@pytest.mark.parametrize(
    ("path", "schema", "given"),
    [
        ("/generate/ddpm", "GenerateRequest", {"seed": 7}),
        ("/generate/vae", "GenerateRequest", {"seeds": [7, 8]}),
        ("/generate/ddpm", "GenerateRequest", {"seed": 7, "image": PNG}),
        ("/interpolate", "InterpolateRequest", {"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}}),
        ("/encode/ddpm", "EncodeRequest", {"image": PNG, "steps": 2}),
        ("/v1/images/generations", "ImagesRequest", {"model": "ddpm", "prompt": "", "seed": 7}),
        ("/v1/images/edits", "EditRequest", {"model": "ddpm", "prompt": "", "seed": 7, "image": PNG}),
        ("/generate/ddpm", "HuggingFaceRequest", {"inputs": "bag", "parameters": {"seed": 7}}),
        ("/v2/models/ddpm/infer", "InferRequest", {"inputs": [TENSOR]}),
    ],
)
def test_the_same_pictures_come_of_it(client: TestClient, path: str, schema: str, given: dict[str, Any]) -> None:
    def pictures(fields: Mapping[str, Any]) -> object:
        response = client.post(path, json=fields, headers=JSON)
        assert response.status_code == 200, response.text
        answer = response.json()
        return answer.get("images") or answer.get("data") or answer["outputs"]

    assert pictures({**nulls(schema), **given}) == pictures(given)
