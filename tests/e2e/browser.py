"""The page in a real browser: Debian's Chromium, driven by Playwright."""

import base64
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
import pytest

from service.images import Pixels

pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SECONDS = 60.0
DONE = ".progress[data-state=done]"

#: What runs on the page before its own scripts: every picture that a large canvas shows is noted, with how the request
#: stood at that moment.
NOTE_FRAMES = """
window.shown = [];
const draw = CanvasRenderingContext2D.prototype.drawImage;
CanvasRenderingContext2D.prototype.drawImage = function (...rest) {
  draw.apply(this, rest);
  if (this.canvas.classList.contains("screen")) {
    const state = document.querySelector(".progress")?.dataset.state;
    window.shown.push({ state, label: this.canvas.ariaLabel, picture: this.canvas.toDataURL() });
  }
};
"""

#: The pixel values of a picture, in the browser.
DECODE = """async url => {
  const image = new Image();
  image.src = url;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height);
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  return [...context.getImageData(0, 0, canvas.width, canvas.height).data];
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


class Visit:
    """One tab: the page of the service at ``port``, and everything that went wrong on it."""

    def __init__(self, page: Page, port: int) -> None:
        self.page, self.base = page, f"http://127.0.0.1:{port}"
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.set_default_timeout(1000 * SECONDS)
        page.on("console", lambda message: self._note(message.type, message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._look(request.url))

    def _note(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def _look(self, url: str) -> None:
        if not url.startswith((self.base, "data:", "blob:")):
            self.outside.append(url)

    def open(self, hash: str = "", *, wait: bool = True) -> Page:
        """The page in the state that ``hash`` says, its pictures made."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.base}/{hash}")
        if wait:
            expect(self.page.locator(DONE)).to_be_attached(timeout=1000 * SECONDS)
        return self.page


@contextmanager
def visiting(
    browser: Browser,
    port: int,
    *,
    size: tuple[int, int] = (1280, 800),
    scheme: Literal["light", "dark"] = "light",
    motion: Literal["reduce", "no-preference"] = "reduce",
    permissions: Sequence[str] = (),
) -> Iterator[Visit]:
    """A visit to the service at ``port`` by somebody with those preferences."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        reduced_motion=motion,
        permissions=permissions,
        accept_downloads=True,
    )
    context.add_init_script(NOTE_FRAMES)
    try:
        yield Visit(context.new_page(), port)
    finally:
        context.close()


def file_of(url: str) -> bytes:
    """The bytes of a data URL."""
    return base64.b64decode(url.partition(",")[2])


def pixels_of(page: Page, selector: str) -> Pixels:
    """(height, width, 4) that a canvas holds."""
    found = page.locator(selector).evaluate(
        "c => [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
    )
    height, width, values = found
    return np.array(values, np.uint8).reshape(height, width, 4)


def slide(page: Page, label: str, value: float) -> None:
    """Move the slider of that name, as an arrow key or a finger would."""
    page.get_by_role("slider", name=label, exact=True).fill(str(value))
