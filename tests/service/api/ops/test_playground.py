import re
from pathlib import PurePosixPath

import pytest
from starlette.testclient import TestClient

from service.api.ops.playground import ASSETS, FOLDER, HEADERS
from tests.service.api.conftest import problem

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
NAMES = sorted(ASSETS)
MODULES = [name for name in NAMES if name.endswith(".js")]


def text(name: str) -> str:
    return ASSETS[name].content.decode()


def test_a_browser_gets_the_page(client: TestClient) -> None:
    response = client.get("/", headers=BROWSER)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "Accept"
    assert response.text.startswith("<!doctype html>")


@pytest.mark.parametrize("accept", ["*/*", "application/json", "application/json, text/html;q=0.5"])
def test_a_program_gets_valid_links(client: TestClient, accept: str) -> None:
    document = client.get("/", headers={"Accept": accept}).json()
    assert document["name"] == "genserve"
    assert document["links"].keys() >= {"models", "openapi", "health", "metrics", "docs"}
    for path in document["links"].values():
        assert client.get(path).status_code == 200


def test_other_types_are_not_acceptable(client: TestClient) -> None:
    problem(client.get("/", headers={"Accept": "image/png"}), 406, "not-acceptable")


def test_the_content_security_policy_allows_no_other_host(client: TestClient) -> None:
    for path in ("/", "/ui/style.css", "/ui/nothing.js"):
        headers = client.get(path, headers=BROWSER).headers
        policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
        assert policy["default-src"] == policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["img-src"] == "'self' data: blob:"
        assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"


def test_a_page_that_did_not_change_keeps_its_policy(client: TestClient) -> None:
    """With another policy in the 304, a browser blocks every file of the page that it loads again."""
    for path in ("/", "/ui/style.css"):
        first = client.get(path, headers=BROWSER).headers
        again = client.get(path, headers=BROWSER | {"If-None-Match": first["etag"]})
        assert again.status_code == 304
        assert again.headers["content-security-policy"] == first["content-security-policy"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_has_its_type_and_is_revalidated(client: TestClient, name: str) -> None:
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml", ".html": "text/html"}
    response = client.get(f"/ui/{name}")
    assert response.status_code == 200
    assert response.content == (FOLDER / name).read_bytes()
    assert response.headers["content-type"].split(";")[0] == types[PurePosixPath(name).suffix]
    assert response.headers["cache-control"] == "no-cache"
    again = client.get(f"/ui/{name}", headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(f"/ui/{name}", headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/ui/", "/ui/app.py", "/ui/../settings.py", "/ui/%2e%2e/settings.py", "/ui/js/../../app.py", "/ui//etc/passwd"],
)
def test_nothing_else_is_served(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 404
    assert b"import" not in response.content


def test_every_file_of_the_page_is_in_the_table() -> None:
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert files == set(NAMES)


def test_head_has_the_headers_of_the_page(client: TestClient) -> None:
    response = client.head("/", headers=BROWSER)
    assert {name: response.headers[name] for name in HEADERS} == HEADERS
    assert response.content == b""


@pytest.mark.parametrize("name", NAMES)
def test_no_file_names_another_host(name: str) -> None:
    hosts = set(re.findall(r"\w+://[^\s\"'`)]+", text(name)))
    # A namespace is a name; nothing is fetched from it.
    assert hosts <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"""(?:src|href|url)[=(]["']?//""", text(name))


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_existing_modules(name: str) -> None:
    for target in re.findall(r"""from\s+["']([^"']+)["']""", text(name)):
        assert target.startswith("./")
        assert (PurePosixPath(name).parent / target).as_posix() in ASSETS


def test_modules_import_exported_names() -> None:
    for name in MODULES:
        for names, target in re.findall(r"""import \{([^}]*)\} from "\./([^"]+)";""", text(name)):
            exported = set(re.findall(r"export (?:async )?(?:function\*?|const|class|let) (\w+)", text(f"js/{target}")))
            exported |= set(re.findall(r"export async function\* (\w+)", text(f"js/{target}")))
            assert {each.strip() for each in names.split(",") if each.strip()} <= exported, f"{name}: {target}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_use_the_names_that_they_import(name: str) -> None:
    imports = re.compile(r"""import \{([^}]*)\} from "[^"]+";""")
    code = re.sub(r"//[^\n]*|/\*\*.*?\*/", "", imports.sub("", text(name)), flags=re.DOTALL)
    imported = {each.strip() for names in imports.findall(text(name)) for each in names.split(",") if each.strip()}
    assert imported <= set(re.findall(r"\w+", code))


def test_every_module_is_used() -> None:
    used = {f"js/{target}" for name in MODULES for target in re.findall(r"""from "\./([^"]+)";""", text(name))}
    assert set(MODULES) == used | {"js/main.js"}


def test_the_page_refers_to_existing_files() -> None:
    references = re.findall(r"""(?:src|href)="ui/([^"]+)\"""", text("index.html"))
    assert {"style.css", "js/main.js", "icon.svg"} <= set(references)
    assert set(references) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_url_is_relative_for_proxies_that_serve_below_a_path(name: str) -> None:
    assert re.findall(r"""(?:src|href)=["']?/""", text(name)) == []
    assert re.findall(r"""\b(?:fetch|request|getJson|getFile|stream)\(["'`]/""", text(name)) == []


def test_nothing_forbidden_by_the_policy_is_inline() -> None:
    page = text("index.html")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", page)
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function"
    assert [name for name in MODULES if re.search(forbidden, text(name))] == []


def test_modules_are_short() -> None:
    assert {name: lines for name in MODULES if (lines := len(text(name).splitlines())) >= 300} == {}


def test_no_module_names_a_model(client: TestClient) -> None:
    """Forms are built from the cards, so that any model works."""
    for name in MODULES:
        assert not re.search(r"""["'`](ddpm|gan|vae|ldm|fashion-mnist)["'`]""", text(name)), name
