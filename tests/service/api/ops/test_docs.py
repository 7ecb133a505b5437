"""The pages of the OpenAPI document: where their files come from, and what they may load."""

import base64
import hashlib
import re

import pytest
from starlette.testclient import TestClient


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_a_page_loads_files_of_the_service_only(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "://" not in page.text
    assert "redoc.ly/redoc/logo" not in client.get("/docs/redoc.standalone.js").text
    links = re.findall(r'(?:src|href|spec-url)="([^"]+)"', page.text) + re.findall(r"url: '([^']+)'", page.text)
    assert "openapi.json" in links
    for link in links:
        assert not link.startswith("/")  # relative: a proxy may serve the page below a path
        assert client.get(f"/{link}").status_code == 200, link


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_policy_of_a_page_allows_its_own_inline_script_alone(client: TestClient, path: str) -> None:
    page = client.get(path)
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    scripts = re.findall(r"<script>(.*?)</script>", page.text, re.DOTALL)
    hashes = {f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in scripts}
    assert set(policy["script-src"].split()) == {"'self'", *hashes}
    assert "http" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"


def test_a_file_is_cached_by_its_etag(client: TestClient) -> None:
    file = client.get("/docs/swagger-ui.css")
    assert file.headers["content-type"].startswith("text/css")
    again = client.get("/docs/swagger-ui.css", headers={"If-None-Match": file.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/docs/nope.js").status_code == 404
    assert client.get("/docs/..%2Fcore.py").status_code == 404
