"""Settings that a picture brings back: the page then asks for the same pictures."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.images import Pixels
from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, visiting  # noqa: E402
from tests.e2e.page.files import bodies_of, decoded, dispatch  # noqa: E402


def made(service: Service, path: str, body: dict[str, Any]) -> bytes:
    answer = service.client.post(path, json=body)
    assert answer.status_code == 200, answer.text
    return answer.content


def grey(content: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"))


def test_truncation(browser: Browser, shipped: Service) -> None:
    picture = made(shipped, "/generate/gan", {"seed": 99, "class_label": "coat", "truncation": 0.5})
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5")
        dispatch(page, "drop", picture)
        expect(page.locator(".notice")).to_have_text("Settings restored from the picture.")
        expect(page.get_by_role("slider", name="Truncation")).to_have_value("0.5")
        tile = page.get_by_role("button", name="coat, seed 99")
        shown = decoded(page, tile.locator("img").get_attribute("src") or "", (28, 28))
        assert np.array_equal(shown[:, :, 0], grey(picture))


def test_image_mask_and_strength(browser: Browser, shipped: Service) -> None:
    bag = shipped.client.post("/generate/vae", json={"seed": 9, "class_label": "bag", "format": "json"}).json()
    image = bag["images"][0]["b64_json"]
    fields = {"seed": 99, "steps": 6, "strength": 0.4, "class_label": "bag", "solver": "ddim"}
    picture = made(shipped, "/generate/ddpm", {"image": image, "mask": image, **fields})
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=7&n=1")
        sent = bodies_of(page, "/generate/ddpm")
        dispatch(page, "drop", picture)
        expect(page.get_by_role("heading", level=1)).to_have_text("Draw")
        expect(page.get_by_role("slider", name="Strength")).to_have_value("0.4")
        expect(page.locator(DONE)).to_be_attached()
        assert {name: sent[0][name] for name in fields} == fields
        (tile,) = page.locator(".tile img").all()
        shown = decoded(page, tile.get_attribute("src") or "", (28, 28))
        assert np.abs(shown[:, :, 0].astype(int) - grey(picture).astype(int)).max() <= 1


def test_a_path_of_three_points(browser: Browser, shipped: Service) -> None:
    points = [{"seed": 4}, {"seed": 5}, {"seed": 6}]
    fields = {"model": "vae", "points": points, "frames": 5, "method": "linear", "class_label": "bag"}
    picture = made(shipped, "/interpolate", fields)
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=7&n=1")
        sent = bodies_of(page, "/interpolate")
        dispatch(page, "paste", picture)
        expect(page.get_by_label("Via seeds")).to_have_value("5")
        expect(page.locator(DONE)).to_be_attached()
        assert {name: sent[0][name] for name in fields} == fields


def test_a_path_from_a_picture(browser: Browser, shipped: Service) -> None:
    bag = shipped.client.post("/generate/vae", json={"seed": 9, "class_label": "bag", "format": "json"}).json()
    start = {"image": bag["images"][0]["b64_json"]}
    picture = made(shipped, "/interpolate", {"model": "vae", "from": start, "to": {"seed": 6}, "frames": 3})
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=7&n=1")
        sent = bodies_of(page, "/interpolate")
        dispatch(page, "drop", picture)
        expect(page.get_by_text("From: uploaded picture")).to_be_visible()
        expect(page.locator(DONE)).to_be_attached()
        assert "image" in sent[0]["from"]
        assert sent[0]["to"] == {"seed": 6}


def test_rows_of_several_classes(browser: Browser, shipped: Service) -> None:
    labels = ["bag"] * 2 + ["coat"] * 2
    sheet = made(shipped, "/generate/gan", {"seeds": [5, 6, 5, 6], "class_label": labels})
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5")
        dispatch(page, "drop", sheet)
        expect(page.locator(".sheet-row h2")).to_have_text(["bag", "coat"])
        expect(page.locator("button.tile")).to_have_count(4)
        expect(page.get_by_role("button", name="bag, seed 6")).to_be_visible()


def test_what_the_page_cannot_show_is_named(browser: Browser, shipped: Service) -> None:
    body = {"seeds": [5, 9], "class_label": "bag", "steps": 5, "solver": "ddim", "eta": 0.5}
    picture = made(shipped, "/generate/ddpm", body)
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=7&n=1")
        dispatch(page, "drop", picture)
        expect(page.locator(".notice")).to_contain_text("Not restored: seeds that are not in sequence, eta.")


def test_a_model_that_is_not_served_is_named(browser: Browser, shipped: Service) -> None:
    picture = made(shipped, "/generate/gan", {"seed": 9})
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5", wait=False)
        cards = [card for card in shipped.client.get("/models").json() if card["name"] != "gan"]
        page.route("**/models", lambda route: route.fulfill(json=cards))
        page.reload()
        expect(page.locator(DONE)).to_be_attached()
        dispatch(page, "drop", picture)
        expect(page.locator(".notice")).to_have_text("The model gan of this picture is not served.")
