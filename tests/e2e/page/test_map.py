"""The map: points under the mouse, zoom, and a point that is used as a picture."""

import re

import numpy as np
import pytest

from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, FloatRect, Page, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, pixels_of, visiting  # noqa: E402

MAP = "#map?model=vae&x=0.5&y=-0.5&classes=7"
SCREEN = ".plane canvas.screen"


def opened(page: Page) -> tuple[str, FloatRect]:
    """The caption of the first point, and where the map is."""
    caption = page.locator(".plane figcaption")
    expect(caption).not_to_be_empty()
    box = page.locator(".sky").bounding_box()
    assert box is not None
    return caption.inner_text(), box


def state_of(page: Page) -> dict[str, str]:
    return dict(part.split("=") for part in page.url.partition("?")[2].split("&"))


def test_a_hovering_mouse_decodes_without_a_change_of_the_point(browser: Browser, mapped: Service) -> None:
    with visiting(browser, mapped.port) as visit:
        page = visit.open(MAP, wait=False)
        before, box = opened(page)
        state, caption = state_of(page), page.locator(".plane figcaption")
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        expect(caption).not_to_have_text(before)
        assert state_of(page) == state
        page.mouse.move(box["x"] - 40, box["y"])
        expect(caption).to_have_text(before)


def test_zoom_keeps_the_point_and_makes_smaller_steps(browser: Browser, mapped: Service) -> None:
    with visiting(browser, mapped.port) as visit:
        page = visit.open(MAP, wait=False)
        opened(page)
        sky = page.locator(".sky")

        def step() -> float:
            before = float(state_of(page)["x"])
            sky.press("ArrowRight")
            return float(state_of(page)["x"]) - before

        whole, points = step(), pixels_of(page, ".sky .points")
        page.get_by_role("button", name="Zoom in").click()
        sky.press("+")
        assert step() == pytest.approx(whole / 4, rel=0.1)
        assert not np.array_equal(pixels_of(page, ".sky .points"), points)
        scale = re.search(r"scale\((\d+)\)", sky.locator("canvas").first.get_attribute("style") or "")
        assert scale is not None
        assert scale[1] == "4"
        for _ in range(40):  # the window follows the point to the border of the plane
            sky.press("ArrowLeft")
        for _ in range(3):
            sky.press("-")
        assert step() == pytest.approx(whole, rel=0.1)


def test_a_point_can_be_used_as_a_picture(browser: Browser, mapped: Service) -> None:
    with visiting(browser, mapped.port) as visit:
        page = visit.open(MAP, wait=False)
        opened(page)
        shown = pixels_of(page, SCREEN)
        page.get_by_role("button", name="Use this point").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Draw")
        expect(page.locator(DONE)).to_be_attached()
        assert np.array_equal(pixels_of(page, ".pad .picture"), shown)
