"""Accessibility of the page: names, contrast, keyboard, and screen sizes."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")

from playwright.sync_api import Browser, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import slide, visiting  # noqa: E402

#: Interactive elements without an accessible name.
NAMELESS = """() => [...document.querySelectorAll("a[href], button, input, select, [role=application], [role=img]")]
  .filter((e) => e.checkVisibility())
  .filter((e) => !(e.ariaLabel || e.textContent.trim() || [...(e.labels ?? [])].some((l) => l.textContent.trim())))
  .filter((e) => !e.querySelector("img[alt]:not([alt=''])"))
  .map((e) => e.outerHTML.slice(0, 120))"""

#: Text with a contrast under 4.5 (WCAG 2.2, 1.4.3), by the rendered colours.
FAINT = """() => {
  const canvas = new OffscreenCanvas(1, 1);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = rgb(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const contrast = (e) => {
    const [a, b] = [rgb(getComputedStyle(e).color), ground(e)].map(luminance).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  return [...document.querySelectorAll("body *")]
    .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()) && e.checkVisibility())
    .filter((e) => contrast(e) < 4.5)
    .map((e) => `${contrast(e).toFixed(2)} ${e.outerHTML.slice(0, 100)}`);
}"""

VIEWS = ("gallery", "interpolate", "film", "draw")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_elements_have_names_and_text_has_contrast(browser: Browser, shipped: Service, scheme: Any) -> None:
    with visiting(browser, shipped.port, scheme=scheme) as visit:
        for view in VIEWS:
            page = visit.open(
                f"#{view}?model=ddpm&seed=7&n=2&steps=3&frames=3&compare=0&classes=8", wait=view != "draw"
            )
            assert page.evaluate(NAMELESS) == []
            assert page.evaluate(FAINT) == []
            assert page.locator("h1").count() == 1
            assert page.locator("img:not([alt])").count() == 0
        page = visit.open("#gallery?model=ddpm&seed=7&n=2&steps=3")
        page.locator("button.tile").first.click()
        expect(page.get_by_role("button", name="Copy as curl")).to_be_visible()
        assert page.evaluate(NAMELESS) == []
        assert page.evaluate(FAINT) == []


def test_the_keyboard_reaches_everything_in_order_with_visible_focus(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=2&steps=3")
        page.keyboard.press("Tab")
        expect(page.locator(":focus")).to_have_text("Skip to the pictures")
        walked = []
        while not page.locator(".foot :focus").count():
            page.keyboard.press("Tab")
            text, outline = page.locator(":focus").evaluate(
                "e => [e.ariaLabel ?? e.labels?.[0]?.textContent ?? e.textContent, getComputedStyle(e).outlineStyle]"
            )
            walked.append(text.strip())
            hidden_radio = text.strip() in ("ddpm", "ddim", "dpmpp_2m") and outline == "none"
            assert outline != "none" or hidden_radio, f"{text} has the focus without an outline"
            assert len(walked) < 60
        order = ["Gallery", "t-shirt", "How many", "Seed", "Lock", "Steps", "Guidance", "Generate", "API"]
        assert [name for name in walked if name in order] == order
        page.locator("button.tile").first.focus()
        page.keyboard.press("Enter")
        dialog = page.get_by_role("dialog")
        expect(dialog).to_be_visible()
        first = dialog.locator(".mat img").get_attribute("src") or ""
        page.keyboard.press("ArrowRight")
        expect(dialog.locator(".mat img")).not_to_have_attribute("src", first)
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()


SHOTS = {
    "gallery": "#gallery?model=ddpm&seed=7&n=8&classes=1,3,5,7,9",
    "interpolate": "#interpolate?model=ddpm&from=7&to=12&classes=7&frames=20",
    "film": "#film?model=ddpm&seed=12&classes=9",
    "map": "#map?model=vae&x=1&y=1&classes=7",
}


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(browser: Browser, mapped: Service, tmp_path: Path, size: tuple[int, int], scheme: Any) -> None:
    """Nothing is wider than the screen. PAGE_PICTURES names a folder for the screenshots."""
    folder = Path(os.environ.get("PAGE_PICTURES", tmp_path))
    with visiting(browser, mapped.port, size=size, scheme=scheme) as visit:
        for view, hash in SHOTS.items():
            page = visit.open(hash, wait=view != "map")
            if view == "film":
                slide(page, "Step", 3)
            if view == "map":
                expect(page.locator(".plane figcaption")).not_to_be_empty()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            name = f"page-{view}-{scheme}{'' if size[0] > 400 else '-phone'}.png"
            page.screenshot(path=folder / name)
            assert (folder / name).stat().st_size > 10_000
