"""Pictures that the user brings: photos, other files, drops and pastes, and the pad."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, file_of, pixels_of, slide, visiting  # noqa: E402
from tests.e2e.page.files import bodies_of, dispatch, png_of, red_shoe, upload  # noqa: E402

SEEN = "dialog .screen"
#: Whether anything is on a canvas of the pad, whose pixels are black or clear before.
PAINTED = """selector => {
  const canvas = document.querySelector(selector);
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.some((value, at) => value !== data[at % 4]);
}"""
#: A page with nothing drawn, whose Generate is not pressed.
PAD = "#draw?model=ddpm&seed=3&steps=5&lock=1"


def test_a_photo_is_fitted_to_what_the_model_learnt(browser: Browser, shipped: Service) -> None:
    """A red shoe on white becomes a light grey one on black that fills the frame; each setting can be changed."""
    with visiting(browser, shipped.port) as visit:
        page = visit.open(PAD, wait=False)
        page.get_by_label("Open a picture").set_input_files(upload(red_shoe()))
        page.get_by_role("button", name="Use this picture").wait_for()
        seen = pixels_of(page, SEEN)[:, :, :3].astype(int)
        assert seen.shape == (28, 28, 3)
        assert np.ptp(seen, axis=2).max() == 0, "grey"
        assert seen[[0, 0, -1, -1], [0, -1, 0, -1]].max() < 12, "black around it"
        columns = np.flatnonzero((seen[:, :, 0] > 128).any(axis=0))
        assert columns[-1] - columns[0] >= 24, "it fills the width"
        page.get_by_label("Invert light and dark").uncheck()
        assert pixels_of(page, SEEN)[0, 0, 0] > 240
        page.get_by_role("button", name="Suggested").click()
        slide(page, "Brightness", 0.5)
        assert pixels_of(page, SEEN)[0, 0, 0] == 0, "brighter before the inversion is darker after it"
        slide(page, "Zoom", 6)
        zoomed = pixels_of(page, SEEN)
        page.get_by_role("button", name="Use this picture").click()
        page.wait_for_function(PAINTED, arg=".pad .picture")
        assert np.array_equal(pixels_of(page, ".pad .picture"), zoomed)
        page.get_by_role("button", name="Undo").click()
        assert pixels_of(page, ".pad .picture")[:, :, :3].max() == 0


def test_a_photo_without_an_even_background_keeps_its_tones(browser: Browser, shipped: Service) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 90), np.uint8))
    with visiting(browser, shipped.port) as visit:
        page = visit.open(PAD, wait=False)
        page.get_by_label("Open a picture").set_input_files(upload(png_of(photo)))
        expect(page.get_by_label("Invert light and dark")).not_to_be_checked()
        expect(page.get_by_role("slider", name="Contrast")).to_have_value("1")
        page.get_by_role("button", name="Cancel").click()
        assert pixels_of(page, ".pad .picture")[:, :, :3].max() == 0


def test_a_file_that_is_not_a_picture_gives_one_message(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open(PAD, wait=False)
        page.get_by_label("Open a picture").set_input_files(upload(b"words", "words.txt", "text/plain"))
        expect(page.get_by_text("words.txt cannot be read. Choose a PNG, JPEG or WebP picture.")).to_be_visible()
        dispatch(page, "drop", b"other words", kind="text/plain")
        expect(page.locator(".notice")).to_have_text("file cannot be read. Choose a PNG, JPEG or WebP picture.")
        expect(page.locator(".notice")).to_have_count(1)


def test_an_uploaded_end_point_is_shown_and_can_be_removed(browser: Browser, shipped: Service) -> None:
    bag = shipped.client.post("/generate/vae", json={"seed": 99, "class_label": "bag"}).content
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#interpolate?model=vae&from=3&to=9&frames=3&classes=8")
        sent = bodies_of(page, "/interpolate")
        page.get_by_label("From: upload a picture").set_input_files(upload(bag))
        expect(page.get_by_text("From: uploaded picture")).to_be_visible()
        expect(page.get_by_label("From seed")).to_be_hidden()
        page.get_by_role("button", name="Swap").click()
        expect(page.get_by_text("To: uploaded picture")).to_be_visible()
        expect(page.get_by_label("From seed")).to_have_value("9")
        page.get_by_role("button", name="Remove").click()
        expect(page.get_by_label("To seed")).to_have_value("3")
        expect(page.locator(DONE)).to_be_attached()
        assert ["image" in each["to"] for each in sent] == [False, True, False]


def test_an_upload_ends_with_its_view(browser: Browser, shipped: Service) -> None:
    """Another model takes the seeds in the address, also one that reads no pictures."""
    bag = shipped.client.post("/generate/vae", json={"seed": 99, "class_label": "bag"}).content
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#interpolate?model=vae&from=3&to=9&frames=3&classes=8")
        sent = bodies_of(page, "/interpolate")
        page.get_by_label("From: upload a picture").set_input_files(upload(bag))
        expect(page.get_by_text("From: uploaded picture")).to_be_visible()
        for model in ("gan", "vae"):
            page.locator("#models").get_by_role("link", name=model, exact=False).first.click()
            expect(page.get_by_label("From seed")).to_have_value("3")
            expect(page.locator(DONE)).to_be_attached()
            assert sent[-1]["from"] == {"seed": 3}


def test_a_picture_can_be_pasted_and_dropped(browser: Browser, shipped: Service) -> None:
    """In the draw view on the pad; elsewhere a picture of another origin opens the draw view."""
    square = Image.new("L", (28, 28))
    square.paste(255, (9, 9, 19, 19))
    with visiting(browser, shipped.port) as visit:
        page = visit.open(PAD, wait=False)
        page.locator(".pad").wait_for()
        dispatch(page, "paste", png_of(square))
        expect(page.get_by_text("Nothing drawn yet")).to_be_visible()
        page.wait_for_function(
            "document.querySelector('.pad .picture').getContext('2d').getImageData(14,14,1,1).data[0]"
        )
        assert np.array_equal(pixels_of(page, ".pad .picture")[:, :, 0], np.asarray(square))
        page = visit.open("#gallery?model=ddpm&seed=3&n=1&steps=5")
        dispatch(page, "drop", red_shoe())
        page.get_by_role("button", name="Use this picture").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Draw")
        expect(page.locator(DONE)).to_be_attached()
        assert page.locator("button.tile").count() >= 1


def test_a_mask_can_be_opened(browser: Browser, shipped: Service) -> None:
    mask = Image.new("L", (28, 28))
    mask.paste(255, (0, 0, 14, 28))
    with visiting(browser, shipped.port) as visit:
        page = visit.open(PAD, wait=False)
        page.get_by_label("Open a mask").set_input_files(upload(png_of(mask)))
        page.get_by_role("button", name="Fill").click()
        page.wait_for_function(PAINTED, arg=".pad .mask")
        assert np.array_equal(pixels_of(page, ".pad .mask")[:, :, 3], np.asarray(mask))
        page.locator(".pad").press("Space")
        sent = bodies_of(page, "/generate")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(DONE)).to_be_attached()
        (body,) = sent
        sent_mask = Image.open(io.BytesIO(file_of(body["mask"])))
        assert np.array_equal(np.asarray(sent_mask.convert("L")), np.asarray(mask))


def test_the_brush_is_visible_and_moves_by_keys(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open(PAD, wait=False)
        brush, pad = page.locator(".brush"), page.locator(".pad")
        expect(brush).to_be_hidden()
        pad.focus()
        page.keyboard.press("ArrowRight")
        expect(brush).to_be_visible()
        before = brush.bounding_box()
        page.keyboard.press("ArrowRight")
        after = brush.bounding_box()
        assert before is not None
        assert after is not None
        assert after["x"] - before["x"] == pytest.approx(308 / 28, abs=0.5)
        page.keyboard.press("Space")
        assert pixels_of(page, ".pad .picture")[14, 16, 0] > 0
        page.keyboard.press("Control+z")
        assert pixels_of(page, ".pad .picture")[:, :, :3].max() == 0
