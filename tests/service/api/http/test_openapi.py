import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from starlette.testclient import TestClient

from service.api.request.negotiation import EVENT_STREAM, PICTURES
from service.api.request.schemas import GenerateRequest, InterpolateRequest
from service.errors import ServiceError
from tests.service.api.conftest import PROBLEM
from tests.service.api.documented import resolved, undocumented

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


def body_schema(document: Document, path: str) -> Document:
    """The schema of a body of JSON; of several, the first."""
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    return resolved(document, schema.get("anyOf", [schema])[0])


def test_every_route_is_described(document: Document) -> None:
    routes = {(method.upper(), path) for path, item in document["paths"].items() for method in item}
    assert routes == {
        ("POST", "/generate/{model}"),
        ("GET", "/generate/{model}"),
        *(("POST", f"/sdapi/v1/{name}") for name in ("txt2img", "img2img", "interrupt", "options")),
        *(("GET", f"/sdapi/v1/{name}") for name in ("progress", "samplers", "sd-models", "loras")),
        *(("GET", f"/sdapi/v1/{name}") for name in ("scripts", "options")),
        ("GET", "/controlnet/model_list"),
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
    body = resolved(document, content["application/json"]["schema"])
    assert body["properties"]["seed"]["anyOf"][-1] == {"type": "null"}
    form = resolved(document, content["multipart/form-data"]["schema"])
    assert {"image", "mask", "seed"} <= form["properties"].keys()
    assert [node for node in nodes(form) if node.get("type") in ("null", "object")] == [form]


def test_the_document_tells_which_fields_may_be_empty(document: Document) -> None:
    """Those of every query, and the optional ones of a form."""
    content = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    form = resolved(document, content["multipart/form-data"]["schema"])
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
    schema = body_schema(document, path)
    assert schema["properties"].keys() == {field.alias or name for name, field in form.model_fields.items()}
    for field in schema["properties"].values():
        assert [node for node in nodes(field) if "description" in node]


def test_the_query_has_the_fields_of_the_body(document: Document) -> None:
    operation = document["paths"]["/generate/{model}"]["get"]
    parameters = [resolved(document, parameter) for parameter in operation["parameters"]]
    query = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    assert query == GenerateRequest.model_fields.keys() - {"metadata"}  # an object, which a query cannot hold
    (path,) = (parameter for parameter in parameters if parameter["in"] == "path")
    assert (path["name"], path["required"]) == ("model", True)


@pytest.mark.parametrize(
    ("path", "method"), [("/generate/{model}", "post"), ("/generate/{model}", "get"), ("/interpolate", "post")]
)
def test_every_form_and_every_refusal_is_described(document: Document, path: str, method: str) -> None:
    responses = document["paths"][path][method]["responses"]
    assert responses["200"]["content"].keys() == {*PICTURES, EVENT_STREAM}
    kinds: list[type[ServiceError]] = [ServiceError, *ServiceError.__subclasses__()]
    failed = {str(kind.status) for kind in kinds}
    assert responses.keys() == {"200", "202", "204"} | failed | ({"304"} if method == "get" else set())
    for status in failed:
        response = resolved(document, responses[status])
        schema = resolved(document, response["content"]["application/problem+json"]["schema"])
        assert schema["properties"].keys() == PROBLEM
        assert ("Retry-After" in response["headers"]) == (status in ("409", "429", "503"))


def test_the_errors_of_a_job_are_those_of_its_request(document: Document) -> None:
    """Its pictures are decoded while it runs; only its body was read before."""
    result = document["paths"]["/jobs/{id}/result"]["get"]["responses"]
    request = document["paths"]["/generate/{model}"]["post"]["responses"]
    reading_the_body = {"401", "403", "408", "421"}
    failures = {status for status in request if status >= "400"}
    assert failures - reading_the_body <= result.keys()


def test_every_failure_of_reading_a_body_is_described(document: Document) -> None:
    operations = {(path, name): each for path, item in document["paths"].items() for name, each in item.items()}
    reading = {key for key, each in operations.items() if "requestBody" in each} | {("/sdapi/v1/options", "post")}
    assert len(reading) > 8
    for key in reading:
        assert {"400", "408", "413", "422"} <= operations[key]["responses"].keys(), key
    with_pictures = {"generate/{model}", "inspect", "v1/images/edits", "sdapi/v1/txt2img", "sdapi/v1/img2img"}
    for path in with_pictures:
        assert "415" in operations[f"/{path}", "post"]["responses"], path


def test_an_example_in_the_document_is_answered(client: TestClient, document: Document) -> None:
    schema = body_schema(document, "/generate/{model}")
    examples = {name: field["examples"][0] for name, field in schema["properties"].items() if "examples" in field}
    assert examples
    examples["class_label"] %= 3
    assert client.post("/generate/ddpm", json=examples).status_code == 200


def test_the_example_of_a_body_is_answered(client: TestClient, document: Document) -> None:
    for path, url in (("/generate/{model}", "/generate/ddpm"), ("/interpolate", "/interpolate")):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert client.post(url, json=body).status_code == 200


def test_a_body_of_hugging_face_is_described(document: Document) -> None:
    body = document["paths"]["/generate/{model}"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names = [set(resolved(document, form)["properties"]) for form in body["anyOf"]]
    assert names[0] == GenerateRequest.model_fields.keys()
    assert names[1] == {"inputs", "parameters", "options"}


def test_every_operation_may_fail_and_be_refused(document: Document) -> None:
    polled = {"/models", "/health", "/health/live", "/health/ready", "/metrics"}  # answered by an overloaded loop too
    for path, item in document["paths"].items():
        for operation in item.values():
            assert {"500", "503"} - ({"503"} if path in polled else set()) <= operation["responses"].keys(), path


def test_operations_are_in_the_order_of_their_tags(document: Document) -> None:
    tags = [tag["name"] for tag in document["tags"]]
    used = [tags.index(operation["tags"][0]) for item in document["paths"].values() for operation in item.values()]
    assert used == sorted(used)
    assert tags[:3] == ["images", "models", "jobs"]


def test_schemas_are_shared(document: Document) -> None:
    assert len(json.dumps(document)) < 260_000
    models = {"GenerateRequest", "PicturesAnswer", "Problem", "JobStatus", "Stats", "ModelCard"}
    assert models <= document["components"]["schemas"].keys()


@pytest.mark.parametrize(
    ("remove", "complaint"),
    [
        (("responses", "200"), "status 200"),
        (("responses", "200", "headers", "X-Seed"), "200: header x-seed"),
        (("responses", "200", "content", "application/json"), "200: media type application/json"),
    ],
)
def test_what_is_not_documented_would_be_found(
    client: TestClient, document: Document, remove: tuple[str, ...], complaint: str
) -> None:
    """The clients of all tests of the API check every response in this way."""
    response = client.post("/generate/vae", headers={"Accept": "application/json"})
    assert undocumented(document, response) == []
    *path, last = remove
    node = document["paths"]["/generate/{model}"]["post"]
    for part in path:
        node = node[part]
    del node[last]
    assert undocumented(document, response) == [complaint]


def test_a_field_that_is_not_documented_would_be_found(client: TestClient, document: Document) -> None:
    response = client.post("/generate/vae", headers={"Accept": "application/json"})
    del document["components"]["schemas"]["Timings"]["properties"]["queue_ms"]
    assert undocumented(document, response) == ["200: field /timings/queue_ms"]
