"""axe, which finds violations of the rules for accessible pages."""

from pathlib import Path

import pytest

pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Page


def axe_script() -> str:
    """Its source, to be evaluated on a page; the test is skipped where the package is not installed."""
    package = pytest.importorskip("axe_playwright_python", reason="needs the package axe-playwright-python")
    return (Path(package.__file__).parent / "axe.min.js").read_text()


def axe_of(page: Page) -> list[str]:
    """What axe finds on the page: the rule and the elements."""
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [f"{rule['id']}: {[node['html'] for node in rule['nodes']]}" for rule in found["violations"]]
