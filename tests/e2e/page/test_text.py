"""The page with text-to-image models of the trainer's: examples, paths between prompts, comparisons and sketches."""

import io
import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from service.images import Pixels
from tests.e2e.process import ROOT, Service, serving
from tests.service.artefacts import VOCABULARY, write_one_shot, write_text

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, Page, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, file_of, pixels_of, slide, visiting  # noqa: E402
from tests.e2e.page.axe import axe_of, axe_script  # noqa: E402
from tests.e2e.page.files import bodies_of, decoded, dispatch, png_of, upload  # noqa: E402

PHONE = (390, 844)
NAMES = [" ".join(pair) for pair in product(VOCABULARY[3:7], repeat=2)]
VIEWS = {
    "gallery": "#gallery?model=emoji&prompt=red+heart&seed=7&n=2",
    "interpolate": "#interpolate?model=emoji&prompt=red&to_prompt=green&via_prompts=apple&from=7&to=12&frames=3",
    "film": "#film?model=emoji&prompt=red+heart&seed=12",
    "draw": "#draw?model=emoji&prompt=red+heart&seed=3",
    "sketch": "#sketch?model=sketch&prompt=red+heart&seed=3",
    "compare": "#compare?model=emoji&prompt=red+heart&seed=3&n=2&by=guidance",
}
#: What the page shows in README and the documents, once the model is there.
SHOTS = {
    "prompt": "#gallery?model=emoji&prompt=red+heart&seed=7",
    "prompt-path": "#interpolate?model=emoji&prompt=red+heart&to_prompt=green+apple&from=7&to=7&frames=16",
}
EMOJI = ROOT / "weights" / "emoji"


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Tiny models of 8 x 8 pixels: emoji and sketch, which read text, and gan, which does not."""
    weights = tmp_path_factory.mktemp("texts") / "weights"
    pictographs = {chr(0x1F300 + place): name for place, name in enumerate(NAMES)}
    write_text(weights, "emoji", capabilities=("generate", "interpolate"), pictographs=pictographs)
    write_text(weights, "sketch", sketches=True)
    write_one_shot(weights, "gan")
    with serving(weights, engine_threads=1) as running:
        yield running
        assert running.errors_logged() == []


def only(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The one body."""
    (body,) = found
    return body


def drawn(page: Page) -> Pixels:
    """(8, 8, 3) of the pad."""
    return pixels_of(page, ".pad .picture")[:, :, :3]


def stroke(page: Page, across: float) -> None:
    """Draw a vertical line on the pad."""
    box = page.locator(".pad").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + across * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + across * box["width"], box["y"] + 0.8 * box["height"], steps=6)
    page.mouse.up()


def test_the_page_opens_with_pictures_of_an_example(browser: Browser, texts: Service) -> None:
    with visiting(browser, texts.port) as visit:
        sent = bodies_of(visit.page, "/generate/emoji")
        page = visit.open()
        expect(page.locator("button.tile")).to_have_count(16)
        expect(page.get_by_label("Prompt", exact=True).last).to_have_value(NAMES[0])
        body = only(sent)
        assert (body["prompt"], body["n"], body["preview_every"]) == (NAMES[0], 16, 1)
        expect(page.get_by_role("button", name=f"{NAMES[0]}, seed {body['seed']}")).to_be_visible()
        assert visit.complaints == []


def test_an_example_acts_at_once(browser: Browser, texts: Service) -> None:
    with visiting(browser, texts.port) as visit:
        page = visit.open(VIEWS["gallery"])
        examples = page.get_by_role("group", name="Examples")
        others = examples.get_by_role("button", name="Other examples")
        others.click()
        expect(others).to_be_focused()
        examples.get_by_role("button", name=NAMES[7], exact=True).click()
        expect(page.get_by_role("button", name=f"{NAMES[7]}, seed 7")).to_be_visible()
        expect(page.get_by_label("Prompt", exact=True).last).to_have_value(NAMES[7])


def test_enter_generates(browser: Browser, texts: Service) -> None:
    with visiting(browser, texts.port) as visit:
        page = visit.open(VIEWS["gallery"] + "&lock=1")
        prompt = page.get_by_label("Prompt", exact=True).last
        prompt.fill("green apple")
        prompt.press("Enter")
        expect(page.get_by_role("button", name="green apple, seed 7")).to_be_visible()
        expect(prompt).to_have_value("green apple")


def test_another_model_gets_a_prompt(browser: Browser, texts: Service) -> None:
    """An address with a seed stands for pictures that may have none; a model that is chosen starts with an example."""
    with visiting(browser, texts.port) as visit:
        sent = bodies_of(visit.page, "/generate/emoji")
        page = visit.open("#gallery?model=emoji&seed=3&n=1")
        assert "prompt" not in only(sent)
        visit.open("#gallery?model=gan&seed=3&n=1")
        page.locator("#models").get_by_role("link", name="emoji").click()
        expect(page.get_by_role("button", name=f"{NAMES[0]}, seed 3")).to_be_visible()


def test_a_path_leads_from_prompt_to_prompt(browser: Browser, texts: Service) -> None:
    with visiting(browser, texts.port) as visit:
        sent = bodies_of(visit.page, "/interpolate")
        page = visit.open("#interpolate?model=emoji&frames=5&steps=3&prompt=red+heart&negative=woman")
        body = only(sent)
        seed = body["from"]["seed"]
        assert body["prompt"] == "red heart"
        assert body["negative_prompt"] == "woman"
        assert body["to"] == {"seed": seed, "prompt": NAMES[0]}, "the same noise: the prompts make the difference"
        page.get_by_label("To", exact=True).fill("green apple")
        page.get_by_label("Via", exact=True).fill("flag\n\nwoman")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(DONE)).to_be_attached()
        between = [{"seed": seed, "prompt": "flag"}, {"seed": seed}, {"seed": seed, "prompt": "woman"}]
        assert sent[1]["points"] == [{"seed": seed}, *between, {"seed": seed, "prompt": "green apple"}]
        frames = [image.get_attribute("src") or "" for image in page.locator(".strip img").all()]
        for frame, prompt in ((0, "red heart"), (1, "flag"), (2, "red heart"), (3, "woman"), (4, "green apple")):
            fields = {"prompt": prompt, "negative_prompt": "woman", "seed": seed, "steps": 3, "format": "npy"}
            expected = np.load(io.BytesIO(texts.client.post("/generate/emoji", json=fields).content))[0]
            shown = decoded(page, frames[frame], (8, 8))[:, :, :3]
            assert np.abs(shown.astype(int) - expected.astype(int)).max() <= 1, prompt
        page.get_by_role("button", name="Swap").click()
        expect(page.get_by_label("From", exact=True)).to_have_value("green apple")
        expect(page.locator(DONE)).to_be_attached()
        assert (sent[2]["prompt"], sent[2]["points"][-1]["prompt"]) == ("green apple", "red heart")


def test_a_path_between_prompts_is_restored(browser: Browser, texts: Service) -> None:
    points = [{"seed": 1, "prompt": "red"}, {"seed": 2}, {"seed": 3, "prompt": "green apple"}]
    body = {"model": "emoji", "points": points, "prompt": "flag", "frames": 4, "steps": 2}
    answer = texts.client.post("/interpolate", json=body, headers={"Accept": "image/png"})
    with visiting(browser, texts.port) as visit:
        page = visit.open("#gallery?model=gan&seed=3&n=1")
        sent = bodies_of(page, "/interpolate")
        dispatch(page, "drop", answer.content)
        expect(page.get_by_role("heading", level=1)).to_have_text("Interpolate")
        expect(page.locator(DONE)).to_be_attached()
        again = only(sent)
        prompts = [point.get("prompt", again["prompt"]) for point in again["points"]]
        assert prompts == ["red", "flag", "green apple"]
        assert [point["seed"] for point in again["points"]] == [1, 2, 3]


def test_guidance_steps_and_models_are_compared(browser: Browser, texts: Service) -> None:
    with visiting(browser, texts.port) as visit:
        sent = bodies_of(visit.page, "/generate/")
        for by, rows in (("guidance", 6), ("steps", None), ("models", 2)):
            page = visit.open(f"#compare?model=emoji&prompt=red+heart&negative=green&seed=3&n=2&by={by}")
            expect(page.locator(".failure")).to_be_hidden()
            facts = page.locator(".compared-row header p")
            assert rows in (None, facts.count())
            for fact in facts.all():
                expect(fact).to_contain_text("computing")
        assert {body["prompt"] for body in sent} == {"red heart"}
        scales = [body["guidance_scale"] for body in sent if "guidance_scale" in body]
        assert scales == [1, 2, 3, 5, 7, 10]
        assert [body.get("negative_prompt") for body in sent[:2]] == [None, "green"], "1 is without guidance"


def test_a_sketch_is_black_on_white(browser: Browser, texts: Service) -> None:
    with visiting(browser, texts.port) as visit:
        page = visit.open(VIEWS["sketch"] + "&lock=1&n=1", wait=False)
        sent = bodies_of(page, "/generate/sketch")
        expect(page.get_by_text("Nothing drawn yet")).to_be_visible()
        assert drawn(page).min() == 255
        slide(page, "Width", 1)
        stroke(page, 0.5)
        assert drawn(page).min() < 64
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(DONE)).to_be_attached()
        body = only(sent)
        image = Image.open(io.BytesIO(file_of(body["control_image"]))).convert("RGB")
        assert np.array_equal(np.asarray(image), drawn(page))
        expect(page.locator(".warnings")).to_be_empty()
        page.get_by_role("button", name="Clear").click()
        assert drawn(page).min() == 255


def test_a_drawing_is_painted_in(browser: Browser, texts: Service) -> None:
    """With a prompt, a strength and a mask; what is not masked stays."""
    picture = Image.new("RGB", (8, 8), (200, 40, 40))
    picture.paste((40, 40, 200), (0, 0, 8, 3))
    mask = Image.new("L", (8, 8))
    mask.paste(255, (0, 0, 4, 8))
    with visiting(browser, texts.port) as visit:
        page = visit.open(VIEWS["draw"] + "&lock=1&n=2&strength=1", wait=False)
        sent = bodies_of(page, "/generate/emoji")
        assert drawn(page).min() == 255, "paper"
        page.get_by_label("Open a picture").set_input_files(upload(png_of(picture)))
        page.get_by_label("Open a mask").set_input_files(upload(png_of(mask)))
        page.wait_for_function(
            "() => document.querySelector('.pad .mask').getContext('2d').getImageData(0, 0, 1, 1).data[3] === 255"
        )
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(DONE)).to_be_attached()
        body = only(sent)
        assert (body["prompt"], body["strength"]) == ("red heart", 1)
        for tile in page.locator(".tile img").all():
            made = decoded(page, tile.get_attribute("src") or "", (8, 8))[:, :, :3]
            assert np.array_equal(made[:, 4:], np.asarray(picture)[:, 4:])
            assert not np.array_equal(made[:, :4], np.asarray(picture)[:, :4])


@pytest.mark.parametrize("size", [(1280, 800), PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Browser, texts: Service, size: tuple[int, int], scheme: Any) -> None:
    axe = axe_script()
    with visiting(browser, texts.port, size=size, scheme=scheme) as visit:
        for view, state in VIEWS.items():
            page = visit.open(state, wait=view not in ("draw", "sketch"))
            page.locator("aside form").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
            page.evaluate(axe)
            assert axe_of(page) == [], view
        assert visit.complaints == []


@pytest.mark.skipif(not EMOJI.is_dir(), reason="needs weights/emoji")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_screenshots(browser: Browser, shipped: Service, tmp_path: Path, scheme: Any) -> None:
    """PAGE_PICTURES names a folder for them."""
    folder = Path(os.environ.get("PAGE_PICTURES", tmp_path))
    with visiting(browser, shipped.port, scheme=scheme) as visit:
        for name, state in SHOTS.items():
            file = folder / f"page-{name}-{scheme}.png"
            visit.open(state).screenshot(path=file)
            assert file.stat().st_size > 10_000
