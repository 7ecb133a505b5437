import re

import pytest
from starlette.testclient import TestClient

NEW = re.compile(r"[0-9a-f]{24}")
REQUESTS = [
    ("POST", "/generate/vae", 200),
    ("GET", "/generate/vae?seed=1", 200),
    ("POST", "/generate/nope", 404),
    ("POST", "/generate/vae?", 200),
    ("DELETE", "/generate/vae", 405),
    ("POST", "/interpolate", 422),
    ("POST", "/inspect", 422),
    ("GET", "/models", 200),
    ("GET", "/models/nope", 404),
    ("GET", "/health/live", 200),
    ("HEAD", "/health", 200),
    ("GET", "/metrics", 200),
    ("GET", "/docs", 200),
    ("GET", "/v2/nope", 404),
    ("GET", "/nope", 404),
]


@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
def test_every_answer_has_one_id(client: TestClient, method: str, path: str, status: int) -> None:
    first, second = client.request(method, path), client.request(method, path)
    assert first.status_code == second.status_code == status
    ids = first.headers.get_list("x-request-id") + second.headers.get_list("x-request-id")
    assert len(ids) == 2
    assert all(NEW.fullmatch(each) for each in ids)
    assert ids[0] != ids[1]


@pytest.mark.parametrize("given", ["a", "A-b_c.9", "x" * 128])
@pytest.mark.parametrize(("method", "path", "status"), REQUESTS)
def test_a_clients_own_is_kept(client: TestClient, method: str, path: str, status: int, given: str) -> None:
    response = client.request(method, path, headers={"X-Request-Id": given})
    assert response.status_code == status
    assert response.headers.get_list("x-request-id") == [given]


@pytest.mark.parametrize("given", ["", " ", "x" * 129, "a b", "ä", "a\tb", "a;b", '"a"', "a/b", "é".encode("latin-1")])
def test_one_that_is_not_valid_is_replaced(client: TestClient, given: str | bytes) -> None:
    raw = given if isinstance(given, bytes) else given.encode()
    for path in ("/generate/vae", "/interpolate"):
        response = client.post(path, headers=[(b"x-request-id", raw)])
        assert NEW.fullmatch(response.headers["x-request-id"])


def test_json_tells_it_too(client: TestClient) -> None:
    headers = {"Accept": "application/json", "X-Request-Id": "mine"}
    assert client.post("/generate/vae", headers=headers).json()["id"] == "mine"
