"""Models that read prompts: fields from the card, sizes, LoRAs and control images."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, file_of, pixels_of, slide, visiting  # noqa: E402
from tests.e2e.page.files import bodies_of, dispatch, png_of, upload  # noqa: E402


def test_prompt_size_and_lora_are_fields_of_the_card(browser: Browser, prompted: Service) -> None:
    with visiting(browser, prompted.port) as visit:
        page = visit.open("#gallery?model=sd&prompt=a+cat&n=2&seed=3&steps=2&lock=1")
        sent = bodies_of(page, "/generate/sd")
        expect(page.get_by_role("slider", name="LoRA scale")).to_be_hidden()
        page.get_by_label("Prompt", exact=True).last.fill("a dog")
        page.get_by_label("Negative prompt").fill("rain")
        page.get_by_label("LoRA", exact=True).select_option("oil")
        slide(page, "LoRA scale", 0.5)
        slide(page, "Width", 24)
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(".tile img").first).to_have_js_property("naturalWidth", 24)
        expect(page.locator(DONE)).to_be_attached()
        body = {"prompt": "a dog", "negative_prompt": "rain", "width": 24, "height": 16, "seed": 3, "n": 2, "steps": 2}
        expected = body | {"lora": {"name": "oil", "scale": 0.5}}
        assert {name: sent[0].get(name) for name in expected} == expected
        tile = page.locator("button.tile").first.bounding_box()
        assert tile is not None
        assert tile["width"] / tile["height"] == pytest.approx(24 / 16, rel=0.01)
        assert len(set(page.url.partition("?")[2].split("&")) & {"lora=oil", "lora_scale=0.5", "width=24"}) == 3


def test_a_model_without_prompts_has_no_such_fields(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&n=1&seed=3")
        for name in ("Prompt", "LoRA", "Width"):
            expect(page.get_by_label(name, exact=True)).to_have_count(0)
        expect(page.locator("#views")).not_to_contain_text("Sketch")


def test_what_a_model_drops_of_a_prompt_is_told(browser: Browser, prompted: Service) -> None:
    with visiting(browser, prompted.port) as visit:
        page = visit.open(f"#gallery?model=sd&prompt={'a' * 40}&n=1&seed=3&steps=2")
        expect(page.locator(".warnings")).to_contain_text("only the first 14 tokens are read")


def test_a_sketch_guides_the_pictures(browser: Browser, prompted: Service) -> None:
    """The request has what is on the pad; its pictures are the API's."""
    sketch = Image.new("L", (16, 16))
    ImageDraw.Draw(sketch).ellipse((3, 3, 12, 12), outline=255)
    with visiting(browser, prompted.port) as visit:
        page = visit.open("#sketch?model=control&prompt=a+cat&n=2&seed=3&steps=2&lock=1", wait=False)
        sent = bodies_of(page, "/generate/control")
        expect(page.get_by_text("Nothing drawn yet")).to_be_visible()
        page.get_by_label("Open a picture").set_input_files(upload(png_of(sketch)))
        slide(page, "Strength", 0.5)
        slide(page, "To", 0.8)
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(DONE)).to_be_attached()
        (body,) = sent
        numbers = {"control_scale": 0.5, "control_end": 0.8, "prompt": "a cat", "n": 2, "seed": 3}
        assert {name: body[name] for name in numbers} == numbers
        image = np.asarray(Image.open(io.BytesIO(file_of(body["control_image"]))).convert("L"))
        assert np.array_equal(image, np.asarray(sketch))
        page.get_by_role("button", name="Invert").click()
        assert pixels_of(page, ".pad .picture")[0, 0, 0] == 255
        page.get_by_role("button", name="Undo").click()
        assert pixels_of(page, ".pad .picture")[0, 0, 0] == 0


def test_a_sketch_is_restored_from_its_picture(browser: Browser, prompted: Service) -> None:
    sketch = Image.new("L", (16, 16))
    sketch.paste(255, (4, 4, 12, 6))
    with visiting(browser, prompted.port) as visit:
        page = visit.open("#sketch?model=control&prompt=a+cat&n=1&seed=3&steps=2&lock=1", wait=False)
        page.get_by_label("Open a picture").set_input_files(upload(png_of(sketch)))
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(DONE)).to_be_attached()
        picture = file_of(page.locator(".tile img").get_attribute("src") or "")
        page = visit.open("#gallery?model=sd&prompt=b&n=1&seed=9&steps=2")
        sent = bodies_of(page, "/generate/control")
        dispatch(page, "drop", picture)
        expect(page.get_by_role("heading", level=1)).to_have_text("Sketch")
        expect(page.locator(DONE)).to_be_attached()
        assert sent[0]["prompt"] == "a cat"
        assert np.array_equal(pixels_of(page, ".pad .picture")[:, :, 0], np.asarray(sketch))
