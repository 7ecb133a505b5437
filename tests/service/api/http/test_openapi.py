from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from service.api.request.negotiation import EVENT_STREAM, PICTURES
from service.api.request.schemas import GenerateRequest, InterpolateRequest
from service.errors import ServiceError
from tests.service.api.conftest import PROBLEM

Document = dict[str, Any]

#: Where the Open Inference Protocol has a model.
OF_A_MODEL = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")


@pytest.fixture
def document(client: TestClient) -> Document:
    response = client.get("/openapi.json")
    assert response.status_code == 200
    found: Document = response.json()
    return found


def nodes(node: object) -> Iterator[Document]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def test_the_page_is_there(client: TestClient) -> None:
    response = client.get("/docs")
    assert response.status_code == 200
    assert "openapi.json" in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "://" not in response.text
    assert "<script" not in response.text
    paths = client.get("/openapi.json").json()["paths"]
    assert all(f"{method.upper()} {path}" in response.text for path, item in paths.items() for method in item)
    assert all(f"<code>{name}</code>" in response.text for name in GenerateRequest.model_fields)


def test_every_route_is_described(document: Document) -> None:
    routes = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert routes == {
        ("POST", "/generate/{model}"),
        ("GET", "/generate/{model}"),
        ("POST", "/interpolate"),
        ("POST", "/encode/{model}"),
        ("GET", "/latent-map/{model}"),
        ("GET", "/stats"),
        ("POST", "/inspect"),
        ("GET", "/jobs"),
        ("GET", "/jobs/{id}"),
        ("DELETE", "/jobs/{id}"),
        ("GET", "/jobs/{id}/result"),
        ("GET", "/jobs/{id}/events"),
        ("POST", "/jobs/{id}/cancel"),
        ("GET", "/models"),
        ("GET", "/models/{name}"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/metrics"),
        ("GET", "/generate/{model}/health"),
        ("POST", "/v1/images/generations"),
        ("POST", "/v1/images/edits"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{model}"),
        ("GET", "/v2"),
        ("GET", "/v2/health/live"),
        ("GET", "/v2/health/ready"),
        ("GET", "/v2/models/stats"),
        ("POST", "/v2/repository/index"),
        *(("GET", base + path) for base in OF_A_MODEL for path in ("", "/ready", "/config", "/stats")),
        *(("POST", f"{base}/infer") for base in OF_A_MODEL),
    }
    assert all(operation["description"] for item in document["paths"].values() for operation in item.values())


def test_every_operation_has_a_name_of_its_own(document: Document) -> None:
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(set(names)) == len(names)


def test_a_form_has_no_null_and_no_objects(document: Document) -> None:
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert content["application/json"]["schema"]["properties"]["seed"]["anyOf"][-1] == {"type": "null"}
    form = content["multipart/form-data"]["schema"]
    assert {"image", "mask", "seed"} <= form["properties"].keys()
    assert [node for node in nodes(form) if node.get("type") in ("null", "object")] == [form]


def test_the_document_tells_which_fields_may_be_empty(document: Document) -> None:
    """Those of every query, and the optional ones of a form."""
    form = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    empty = {name for name, field in form["properties"].items() if {"const": ""} in field.get("anyOf", [])}
    assert empty == form["properties"].keys() - form["required"]
    queries = [node for node in nodes(document) if node.get("in") == "query" and not node.get("required")]
    assert len(queries) > 10
    assert all(parameter["allowEmptyValue"] for parameter in queries)


def test_every_reference_leads_somewhere(document: Document) -> None:
    references = [node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)]
    assert references
    for reference in references:
        target: Any = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


@pytest.mark.parametrize(
    ("path", "form", "required"),
    [("/generate/{model}", GenerateRequest, False), ("/interpolate", InterpolateRequest, True)],
)
def test_the_body_is_json_with_every_field(
    document: Document, path: str, form: type[BaseModel], required: bool
) -> None:
    body = document["paths"][path]["post"]["requestBody"]
    assert body["required"] is required
    schema = body["content"]["application/json"]["schema"]
    assert schema["properties"].keys() == {field.alias or name for name, field in form.model_fields.items()}
    for field in schema["properties"].values():
        assert [node for node in nodes(field) if "description" in node]


def test_the_query_has_the_fields_of_the_body(document: Document) -> None:
    operation = document["paths"]["/generate/{model}"]["get"]
    query = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "query"}
    assert query == GenerateRequest.model_fields.keys() - {"metadata"}  # an object, which a query cannot hold
    (path,) = (parameter for parameter in operation["parameters"] if parameter["in"] == "path")
    assert (path["name"], path["required"]) == ("model", True)


@pytest.mark.parametrize(
    ("path", "method"), [("/generate/{model}", "post"), ("/generate/{model}", "get"), ("/interpolate", "post")]
)
def test_every_form_and_every_refusal_is_described(document: Document, path: str, method: str) -> None:
    responses = document["paths"][path][method]["responses"]
    assert responses["200"]["content"].keys() == {*PICTURES, EVENT_STREAM}
    kinds: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    refusals = {str(kind.status) for kind in kinds} - {"410"}  # what only a job is answered with
    assert responses.keys() == {"200", "202"} | refusals | ({"304"} if method == "get" else set())
    for status in refusals:
        schema = responses[status]["content"]["application/problem+json"]["schema"]
        assert schema["properties"].keys() == PROBLEM


def test_an_example_in_the_document_is_answered(client: TestClient, document: Document) -> None:
    schema = document["paths"]["/generate/{model}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    examples = {name: field["examples"][0] for name, field in schema["properties"].items() if "examples" in field}
    assert examples
    examples["class_label"] %= 3
    assert client.post("/generate/ddpm", json=examples).status_code == 200
