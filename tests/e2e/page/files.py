"""Picture files for the page, and what the page draws of them."""

import io
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Page, Request

from service.images import Pixels
from tests.e2e.browser import DECODE


def png_of(picture: Image.Image) -> bytes:
    """The picture as a file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def upload(content: bytes, name: str = "photo.png", kind: str = "image/png") -> Any:
    """A file for Playwright's set_input_files."""
    return {"name": name, "mimeType": kind, "buffer": content}


def red_shoe() -> bytes:
    """A photo of a red object on white, 900 x 600."""
    photo = Image.new("RGB", (900, 600), (245, 244, 241))
    ImageDraw.Draw(photo).polygon([(250, 300), (420, 330), (640, 400), (640, 430), (250, 430)], (196, 30, 36))
    return png_of(photo)


def dispatch(page: Page, event: str, content: bytes, *, onto: str = "body", kind: str = "image/png") -> None:
    """Drop or paste a file."""
    data = "dataTransfer" if event == "drop" else "clipboardData"
    page.locator(onto).evaluate(
        """(element, { event, data, bytes, kind }) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], "file", { type: kind }));
          const made = new (data === "clipboardData" ? ClipboardEvent : DragEvent)(event, {
            bubbles: true,
            cancelable: true,
            [data]: transfer,
          });
          element.dispatchEvent(made);
        }""",
        {"event": event, "data": data, "bytes": [*content], "kind": kind},
    )


def decoded(page: Page, source: str, shape: tuple[int, int]) -> Pixels:
    """(height, width, 4) of a picture at a URL."""
    return np.array(page.evaluate(DECODE, source), np.uint8).reshape(*shape, 4)


def bodies_of(page: Page, path: str) -> list[dict[str, Any]]:
    """The JSON bodies of requests to `path` from now on; the list grows."""
    found: list[dict[str, Any]] = []

    def look(request: Request) -> None:
        if request.method == "POST" and path in request.url:
            found.append(json.loads(request.post_data or "{}"))

    page.on("request", look)
    return found
