from collections.abc import Mapping
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.service.api.conftest import problem, series, value

Query = Mapping[str, Any]


def version(client: TestClient, model: str = "vae") -> str:
    found = client.get(f"/models/{model}").json()["version"]
    assert isinstance(found, str)
    return found


def made(client: TestClient) -> float:
    return value(series(client), "images_total", model="vae")


@pytest.mark.parametrize("query", [{"seed": 7}, {"seeds": [7, 9]}, {"seed": 7, "n": 3, "class_label": "bag"}])
def test_a_get_with_seeds_is_revalidated_by_its_etag(client: TestClient, query: Query) -> None:
    response = client.get("/generate/vae", params=query)
    assert response.headers["cache-control"] == "no-cache"
    etag = response.headers["etag"]
    assert etag == client.get("/generate/vae", params=query).headers["etag"]
    before = made(client)
    for tags in (etag, etag.removeprefix("W/"), f'"other", {etag}', "*"):
        kept = client.get("/generate/vae", params=query, headers={"If-None-Match": tags})
        assert (kept.status_code, kept.content) == (304, b"")
        assert (kept.headers["etag"], kept.headers["vary"]) == (etag, "Accept")
        assert kept.headers["cache-control"] == "no-cache"
    assert made(client) == before
    assert client.get("/generate/vae", params=query, headers={"If-None-Match": '"other"'}).status_code == 200
    assert made(client) > before


def test_the_version_makes_an_answer_one_for_ever(client: TestClient) -> None:
    query: Query = {"seed": 7, "version": version(client)}
    response = client.get("/generate/vae", params=query)
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"
    kept = client.get("/generate/vae", params=query, headers={"If-None-Match": response.headers["etag"]})
    assert (kept.status_code, kept.headers["cache-control"]) == (304, response.headers["cache-control"])


def test_another_version_is_not_there(client: TestClient) -> None:
    for response in (
        client.get("/generate/vae", params={"seed": 7, "version": "00000000"}),
        client.post("/generate/vae", json={"version": "00000000"}),
        client.post("/interpolate", json={"model": "vae", "version": "00000000"}),
    ):
        assert version(client) in problem(response, 404, "unknown-version")["detail"]
        assert response.headers["cache-control"] == "no-store"
        assert (response.headers["x-model"], response.headers["x-model-version"]) == ("vae", version(client))


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 8},
        {"seed": 7, "n": 2},
        {"seeds": [7]},
        {"seed": 7, "scale": 2},
        {"seed": 7, "class_label": 0},
        {"seed": 7, "format": "webp"},
        {"seed": 7, "format": "webp", "quality": 50},
    ],
)
def test_what_differs_has_another_name(client: TestClient, other: Query) -> None:
    first, second = (client.get("/generate/vae", params=query) for query in ({"seed": 7}, other))
    assert first.headers["etag"] != second.headers["etag"]


def test_models_do_not_share_a_name(client: TestClient) -> None:
    first, second = (client.get(f"/generate/{model}", params={"seed": 7}) for model in ("vae", "ddpm"))
    assert first.headers["etag"] != second.headers["etag"]


def test_without_a_seed_and_after_a_post_nothing_is_kept(client: TestClient) -> None:
    for response in (
        client.get("/generate/vae"),
        client.get("/generate/vae", params={"version": version(client)}),
        client.post("/generate/vae", json={"seed": 7, "version": version(client)}, headers={"If-None-Match": "*"}),
        client.post("/interpolate", json={"model": "vae"}),
    ):
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        assert "etag" not in response.headers
