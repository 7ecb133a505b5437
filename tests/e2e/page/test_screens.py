"""The page on a phone and enlarged to 200 %, and what axe finds in each view."""

from typing import Any

import pytest

from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, Page, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import visiting  # noqa: E402
from tests.e2e.page.axe import axe_of, axe_script  # noqa: E402
from tests.e2e.page.files import red_shoe, upload  # noqa: E402

PHONE = (390, 844)
#: A desktop window of 1280 x 800 at 200 %.
ENLARGED = (640, 400)
VIEWS = {
    "gallery": "#gallery?model=ddpm&seed=7&n=2&steps=3&classes=1,8",
    "interpolate": "#interpolate?model=ddpm&from=7&to=12&frames=3&steps=3&via=4",
    "film": "#film?model=ddpm&seed=12&classes=9&steps=3",
    "map": "#map?model=vae&x=1&y=1&classes=7",
    "draw": "#draw?model=ddpm&seed=3&steps=3",
    "compare": "#compare?model=vae&seed=3&n=2&by=truncation",
    "error": "#gallery?model=ddpm&seed=7&n=1&steps=5000",
}

#: Whether an element is within the window's width.
WITHIN = "e => { const box = e.getBoundingClientRect(); return box.left >= 0 && box.right <= innerWidth; }"


def settle(page: Page, view: str) -> None:
    """Wait for what a view shows in the end."""
    ends = {"map": ".plane figcaption:not(:empty)", "draw": ".pad", "error": ".failure:not([hidden])"}
    page.locator(ends.get(view, ".progress[data-state=done]")).first.wait_for(state="attached")


def test_the_tabs_of_model_and_view_are_on_the_screen(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port, size=PHONE) as visit:
        for state in ("#compare?model=vae&seed=3&n=1", "#gallery?model=autoencoder", "#draw?model=ldm"):
            page = visit.open(state, wait=False)
            for bar in ("#models", "#views"):
                assert page.locator(f"{bar} [aria-current]").evaluate(WITHIN), (state, bar)


def test_the_bar_of_models_scrolls(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port, size=PHONE) as visit:
        page = visit.open("#gallery?model=gan&seed=3&n=1")
        bar = page.locator("#models")
        for link in (bar.locator("a").first, bar.locator("a").last):
            link.evaluate("e => e.scrollIntoView({ inline: 'nearest' })")
            assert link.evaluate(WITHIN)
            link.click(trial=True)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_settings_are_above_the_pictures(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port, size=PHONE) as visit:
        page = visit.open("#gallery?model=gan&seed=3&n=64")
        classes, steps = page.get_by_role("button", name="bag", exact=True), page.get_by_label("Truncation")
        expect(classes).to_be_in_viewport()
        expect(steps).to_be_hidden()
        more = page.get_by_role("button", name="Settings")
        expect(more).to_have_attribute("aria-expanded", "false")
        more.click()
        expect(more).to_have_attribute("aria-expanded", "true")
        expect(steps).to_be_in_viewport()
        more.click()
        expect(steps).to_be_hidden()


@pytest.mark.parametrize("size", [PHONE, ENLARGED], ids=["phone", "enlarged"])
def test_nothing_is_wider_than_the_window(browser: Browser, mapped: Service, size: tuple[int, int]) -> None:
    with visiting(browser, mapped.port, size=size) as visit:
        for view, state in VIEWS.items():
            page = visit.open(state, wait=False)
            settle(page, view)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view


@pytest.mark.parametrize("size", [(1280, 800), PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, mapped: Service, size: tuple[int, int], scheme: Any) -> None:
    axe = axe_script()
    with visiting(browser, mapped.port, size=size, scheme=scheme) as visit:
        for view, state in VIEWS.items():
            page = visit.open(state, wait=False)
            settle(page, view)
            page.evaluate(axe)
            assert axe_of(page) == [], view
        page = visit.open("#gallery?model=ddpm&seed=7&n=2&steps=3")
        page.evaluate(axe)
        page.locator("button.tile").first.click()
        page.get_by_role("button", name="Copy as curl").wait_for()
        assert axe_of(page) == [], "the dialog of a picture"
        page = visit.open(VIEWS["draw"], wait=False)
        page.evaluate(axe)
        page.get_by_label("Open a picture").set_input_files(upload(red_shoe()))
        page.get_by_role("button", name="Use this picture").wait_for()
        assert axe_of(page) == [], "the dialog of a photo"
