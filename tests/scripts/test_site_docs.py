"""The documentation site: its pages, their links, and what they load."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from scripts import site_docs
from scripts.site_docs import ROOT, SECTIONS, SITE, TOOLS, gather, moved, place, section, written

installed = pytest.mark.skipif(not (TOOLS / "bin/mkdocs").exists(), reason="MkDocs is not installed: make site")


@pytest.mark.parametrize(
    ("path", "page"),
    [
        ("README.md", "index.md"),
        ("docs/API.md", "API.md"),
        ("docs/pictures/gan.png", "pictures/gan.png"),
        ("docs/decisions", "decisions/index.md"),
        ("examples/own-folder.md", "repository/examples/own-folder.md"),
        ("examples/engine.py", "repository/examples/engine.py.md"),
        ("examples", "repository/examples/index.md"),
    ],
)
def test_a_file_of_the_repository_has_a_place(path: str, page: str) -> None:
    assert place(path) == page


def test_links_lead_to_the_places_of_their_targets() -> None:
    text = (
        "[a](docs/API.md#errors) [b](examples) ![c](docs/pictures/gan.png) "
        "[d](https://a.example/b) [e](#more) [f](no.md)"
    )
    assert moved(text, "README.md", "index.md") == (
        "[a](API.md#errors) [b](repository/examples/index.md) ![c](pictures/gan.png) "
        "[d](https://a.example/b) [e](#more) [f](no.md)"
    )
    assert moved("[a](../examples/engine.py)", "docs/ARCHITECTURE.md", "ARCHITECTURE.md") == (
        "[a](repository/examples/engine.py.md)"
    )


def test_an_anchor_of_a_section_leads_to_its_document() -> None:
    page = "reference/settings.md"
    assert (
        moved("[a](#api-keys) [b](API.md)", "docs/OPERATIONS.md", page)
        == "[a](../OPERATIONS.md#api-keys) [b](../API.md)"
    )


def test_a_section_ends_at_the_next_heading() -> None:
    assert section("# A\n\n## B\n\nbee\n\n### C\n\n## D\n", "B").endswith("# B\n\nbee\n\n### C\n\n")
    with pytest.raises(ValueError, match="no section 'E'"):
        section("## B\n", "E")


def test_code_and_folders_are_pages() -> None:
    assert written("examples/engine.py").startswith("# examples/engine.py\n\n```python\n")
    assert "- [1. TorchScript is the format of the artefact](0001-" in written("docs/decisions")


def test_every_document_is_a_page() -> None:
    pages = gather()
    documents = [str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")]
    assert {place(each) for each in documents} | set(SECTIONS) <= set(pages)
    assert "GENSERVE_PORT" in str(pages["reference/settings.md"])


class Loads(HTMLParser):
    """What a page loads by itself: not what its links lead to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        links = tag == "link" and named.get("rel") not in ("canonical", "prev", "next")
        self.found += [named.get("src") or "", (named.get("href") or "") if links else ""]


@pytest.fixture(scope="module")
def site() -> Path:
    subprocess.run([sys.executable, "-m", "scripts.site_docs"], cwd=ROOT, check=True, timeout=250)
    return SITE


@pytest.mark.slow
@installed
def test_the_site_loads_nothing_from_other_hosts(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loads = [url for url in Loads(page.read_text()).found if url]
        assert [url for url in loads if re.match(r"(\w+:)?//", url)] == [], page
        missing = [url for url in loads if not (page.parent / url.partition("?")[0]).exists()]
        assert page.name == "404.html" or missing == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", style.read_text()) == [], style
    for script in site.rglob("assets/javascripts/bundle*.js"):
        assert "https://unpkg" not in script.read_text()


@pytest.mark.slow
@installed
def test_a_broken_link_fails_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = gather() | {"API.md": "[nowhere](OPERATIONS.md#no-such-heading)\n"}
    monkeypatch.setattr(site_docs, "gather", lambda: pages)
    with pytest.raises(SystemExit):
        site_docs.main()
