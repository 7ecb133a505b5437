"""The documentation site in a real browser."""

import functools
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from scripts.site_docs import SITE, TOOLS
from tests.e2e.process import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(not (TOOLS / "bin/mkdocs").exists(), reason="MkDocs is not installed: make site"),
]


class Quiet(SimpleHTTPRequestHandler):
    """Serves files and logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    subprocess.run([sys.executable, "-m", "scripts.site_docs"], cwd=ROOT, check=True, timeout=250)
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_the_search_finds_a_setting(port: int, browser: "Browser") -> None:
    from playwright.sync_api import expect

    from tests.e2e.browser import visiting

    with visiting(browser, port) as visit:
        visit.page.goto(f"{visit.base}/index.html")
        visit.page.locator("input.md-search__input").fill("GENSERVE_MAX_LAG_MS")
        expect(visit.page.locator(".md-search-result__link").first).to_contain_text("Operations")
        assert (visit.complaints, visit.outside) == ([], [])


def test_every_page_of_the_menu_fits_on_a_phone_and_loads_nothing_from_other_hosts(
    port: int, browser: "Browser"
) -> None:
    from tests.e2e.browser import visiting

    with visiting(browser, port, size=(390, 844)) as visit:
        page = visit.page
        page.goto(f"{visit.base}/index.html")
        links = page.eval_on_selector_all("a.md-nav__link[href]", "links => links.map(link => link.href)")
        pages = dict.fromkeys(link.partition("#")[0] for link in links)
        assert len(pages) > 15
        for url in pages:
            page.goto(url)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, url
        assert (visit.complaints, visit.outside) == ([], [])


@pytest.mark.skipif(not (TOOLS / "mermaid.min.js").exists(), reason="mermaid is not installed: make site")
def test_diagrams_are_drawn(port: int, browser: "Browser") -> None:
    from playwright.sync_api import expect

    from tests.e2e.browser import visiting

    with visiting(browser, port) as visit:
        visit.page.goto(f"{visit.base}/ARCHITECTURE.html")
        expect(visit.page.locator("div.mermaid")).to_have_count(3)
        assert (visit.complaints, visit.outside) == ([], [])
