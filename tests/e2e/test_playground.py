"""The page in Chromium, with the shipped weights."""

import base64
import io
import re
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.conftest import WEIGHTS
from tests.e2e.process import Service, serving

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DECODE, DONE, SECONDS, file_of, pixels_of, slide, visiting  # noqa: E402


def models(service: Service) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.client.get("/models").json()
    return found


def test_every_view_of_every_model_works_alone(browser: Browser, shipped: Service) -> None:
    """No console errors, no requests to other hosts, and pictures in every view."""
    with visiting(browser, shipped.port) as visit:
        for card in models(shipped):
            page = visit.open(f"#gallery?model={card['name']}&seed=7&n=2&steps=5&frames=3", wait=False)
            expect(page.get_by_role("heading", level=1)).to_be_visible()
            names = page.locator("#views a").all_inner_texts()
            assert names
            assert ("Gallery" in names, "Interpolate" in names) == (
                "generate" in card["does"],
                "interpolate" in card["does"],
            )
            for name in names:
                page.get_by_role("link", name=name, exact=True).click()
                expect(page.get_by_role("heading", level=1)).to_have_text(name)
                if name not in ("Draw", "Map", "Sketch"):
                    expect(page.locator(DONE)).to_be_attached(timeout=1000 * SECONDS)
                expect(page.locator(".failure")).to_be_hidden()
        assert visit.complaints == []
        assert visit.outside == []


def test_a_seed_gives_the_bytes_that_the_api_gives(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&n=1&steps=10&classes=7&seed=1")
        before = page.locator(".tile img").get_attribute("src")
        page.get_by_label("Seed", exact=True).fill("42")
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("button", name="sneaker, seed 42")).to_be_visible()
        shown = page.locator(".tile img").get_attribute("src")
        assert shown is not None
        assert shown != before
        request = {"n": 1, "seed": 42, "class_label": "sneaker", "steps": 10}
        assert file_of(shown) == shipped.client.post("/generate/ddpm", json=request).content
        assert "seed=42" in page.url


def test_classes_are_rows_of_the_same_seeds(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&n=3&steps=5&seed=5&classes=1")
        page.get_by_role("button", name="bag", exact=True).click()
        page.get_by_role("button", name="Lock").click()
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(".sheet-row h2")).to_have_text(["trouser", "bag"])
        expect(page.locator("button.tile")).to_have_count(6)
        titles = [tile.get_attribute("title") for tile in page.locator("button.tile").all()]
        assert titles == [f"{name}, seed {seed}" for name in ("trouser", "bag") for seed in (5, 6, 7)]


def test_the_slider_shows_the_frames_of_the_path(browser: Browser, shipped: Service) -> None:
    frames = 5
    request = {"model": "vae", "from": {"seed": 3}, "to": {"seed": 9}, "frames": frames, "class_label": 8}
    answer = shipped.client.post("/interpolate", json={**request, "format": "npy"})
    path = np.load(io.BytesIO(answer.content))
    with visiting(browser, shipped.port) as visit:
        page = visit.open(f"#interpolate?model=vae&from=3&to=9&frames={frames}&classes=8")
        sent: list[str] = []
        page.on("request", lambda request: sent.append(request.url))
        for index in range(frames):
            slide(page, "Frame", index)
            shown = pixels_of(page, ".walk canvas")[:, :, :1]
            assert np.abs(shown.astype(int) - path[index].astype(int)).max() <= 1
        assert not [url for url in sent if "/interpolate" in url], "the slider sends no request"
        assert np.abs(path[0].astype(int) - path[-1].astype(int)).max() > 3


def test_the_film_is_shown_while_it_is_generated(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#film?model=ddpm&seed=7&classes=9&steps=20&compare=0")
        shown = page.evaluate("window.shown")
        for label in ("The noisy state", "The predicted picture"):
            live = {each["picture"] for each in shown if each["label"] == label and each["state"] == "running"}
            assert len(live) >= 3
        slide(page, "Step", 0)
        noise = pixels_of(page, ".projection canvas >> nth=0")
        slide(page, "Step", 20)
        noisy, predicted = (pixels_of(page, f".projection canvas >> nth={index}") for index in (0, 1))
        assert np.array_equal(noisy, predicted), "the last noisy state is the picture"
        assert not np.array_equal(noise, noisy)


def test_guidance_is_compared_at_one_seed(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#film?model=ddpm&seed=7&classes=9&steps=10")
        expect(page.locator(".compared figcaption")).to_have_text([f"guidance {scale}" for scale in (1, 3, 5, 7)])
        last = [pixels_of(page, f".compared canvas >> nth={index}")[:, :, :1] for index in range(4)]
        request = {"seed": 7, "class_label": 9, "steps": 10, "guidance_scale": 5, "format": "npy"}
        answer = shipped.client.post("/generate/ddpm", json=request)
        expected = np.load(io.BytesIO(answer.content))[0]
        assert np.abs(last[2].astype(int) - expected.astype(int)).max() <= 1
        assert len({picture.tobytes() for picture in last}) == 4


def test_a_stopped_service_is_reported_and_can_be_retried(browser: Browser) -> None:
    with serving(WEIGHTS, engine_threads=1) as first, visiting(browser, first.port) as visit:
        page = visit.open("#film?model=ddpm&seed=7&steps=900&compare=0", wait=False)
        expect(page.locator(".progress[data-state=running]")).to_be_attached()
        first.stop(signal.SIGKILL)
        failure = page.locator(".failure")
        expect(failure).to_be_visible()
        expect(failure.get_by_role("heading")).to_have_text("The connection ended early")
        again = failure.get_by_role("button", name="Try again")
        again.click()
        expect(failure.get_by_role("heading")).to_have_text("The service does not answer")
        with serving(WEIGHTS, engine_threads=1, port=first.port):
            slide(page, "Steps", 0)
            again.click()
            expect(page.locator(DONE)).to_be_attached()
            expect(failure).to_be_hidden()


def test_a_rejected_request_names_its_field(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5000", wait=False)
        failure = page.locator(".failure")
        expect(failure.locator("code")).to_have_text("steps")
        expect(failure).to_contain_text("Allowed: 1 to")


def test_the_command_of_a_picture_reproduces_it(browser: Browser, shipped: Service, tmp_path: Path) -> None:
    allowed = ("clipboard-read", "clipboard-write")
    with visiting(browser, shipped.port, permissions=allowed) as visit:
        page = visit.open("#gallery?model=ddpm&n=1&steps=10&classes=8&seed=11")
        shown = page.locator(".tile img").get_attribute("src")
        assert shown is not None
        page.locator("button.tile").click()
        page.get_by_role("button", name="Copy as curl").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("curl ")
    subprocess.run([*shlex.split(command), "--silent"], cwd=tmp_path, check=True, timeout=SECONDS)
    (file,) = tmp_path.iterdir()
    assert file.read_bytes() == file_of(shown)


def test_a_picture_brings_its_settings_back(browser: Browser, shipped: Service) -> None:
    made = shipped.client.post("/generate/gan", json={"seed": 99, "n": 3, "class_label": "coat"}).content
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5")
        data = page.evaluate_handle(
            """bytes => {
              const data = new DataTransfer();
              data.items.add(new File([new Uint8Array(bytes)], "old.png", { type: "image/png" }));
              return data;
            }""",
            [*made],
        )
        page.locator("body").dispatch_event("drop", {"dataTransfer": data})
        expect(page.get_by_text("Settings restored")).to_be_visible()
        expect(page.locator("#models [aria-current]")).to_contain_text("gan")
        expect(page.get_by_role("button", name="coat, seed 99")).to_be_visible()
        expect(page.locator("button.tile")).to_have_count(3)


def test_a_picture_opens_in_other_views(browser: Browser, shipped: Service) -> None:
    """From the gallery to an end point, and to the draw pad."""
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=2&steps=5&classes=3&frames=3")
        page.get_by_role("button", name="dress, seed 8").click()
        page.get_by_role("button", name="Interpolate to").click()
        expect(page.get_by_role("spinbutton", name="To seed")).to_have_value("8")
        expect(page.locator(DONE)).to_be_attached()
        page.go_back()
        expect(page.locator(DONE)).to_be_attached()
        picture = page.get_by_role("button", name="dress, seed 7")
        shown = picture.locator("img").get_attribute("src")
        picture.click()
        page.get_by_role("button", name="Use as image").click()
        expect(page.locator(DONE)).to_be_attached()
        on_pad = pixels_of(page, ".pad .picture")
        assert np.array_equal(on_pad.ravel(), page.evaluate(DECODE, shown))


def test_an_end_point_can_be_an_uploaded_picture(browser: Browser, shipped: Service) -> None:
    made = shipped.client.post("/generate/vae", json={"seed": 99, "class_label": "bag"}).content
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#interpolate?model=vae&from=3&to=9&frames=3&classes=8")
        before = page.locator(".end img").first.get_attribute("src") or ""
        page.get_by_label("From: upload a picture").set_input_files(
            {"name": "bag.png", "mimeType": "image/png", "buffer": made}
        )
        expect(page.locator(".end img").first).not_to_have_attribute("src", before)
        body = {"from": {"image": base64.b64encode(made).decode()}, "to": {"seed": 9}, "frames": 3}
        request = {"model": "vae", "class_label": 8, "format": "npy", **body}
        expected = np.load(io.BytesIO(shipped.client.post("/interpolate", json=request).content))[0]
        slide(page, "Frame", 0)
        shown = pixels_of(page, ".walk canvas")[:, :, :1]
        assert np.abs(shown.astype(int) - expected.astype(int)).max() <= 1


def test_a_photo_is_downscaled_before_the_upload(browser: Browser, shipped: Service) -> None:
    """The service rejects a photo of 12 megapixels."""
    photo = io.BytesIO()
    Image.effect_noise((4000, 3000), 50).save(photo, "JPEG")
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#interpolate?model=vae&from=3&to=9&frames=3&classes=8")
        before = page.locator(".end img").first.get_attribute("src") or ""
        page.get_by_label("From: upload a picture").set_input_files(
            {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo.getvalue()}
        )
        page.get_by_role("button", name="Use this picture").click()
        expect(page.locator(".end img").first).not_to_have_attribute("src", before)
        expect(page.locator(".failure")).to_be_hidden()


def test_latency_and_queue_are_live(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=2&steps=5")
        expect(page.locator("[data-model=ddpm]")).to_have_text(re.compile(r"p50 [\d.]+ m?s"))
        meter = page.locator(".meter").filter(has=page.get_by_role("heading", name="ddpm"))
        expect(meter).to_contain_text(re.compile(r"[1-9]\d* requests? · \d+ pictures?"))
        expect(meter.locator("svg")).to_have_count(2)


def test_back_restores_the_previous_state(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=vae&seed=7&n=1")
        first = page.locator(".tile img").get_attribute("src")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(".tile img")).not_to_have_attribute("src", first or "")
        page.get_by_role("link", name="Interpolate").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("Interpolate")
        page.go_back()
        page.go_back()
        expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
        expect(page.locator(".tile img")).to_have_attribute("src", first or "")


@pytest.mark.parametrize(("motion", "button"), [("reduce", "Play"), ("no-preference", "Pause")])
def test_nothing_plays_by_itself_with_reduced_motion(
    browser: Browser, shipped: Service, motion: Any, button: str
) -> None:
    with visiting(browser, shipped.port, motion=motion) as visit:
        page = visit.open("#interpolate?model=vae&from=3&to=9&frames=6")
        expect(page.locator(".play")).to_have_text(button)


def test_unmasked_pixels_of_a_drawing_are_kept(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#draw?model=ddpm&seed=3&classes=4&steps=10&lock=1", wait=False)
        expect(page.get_by_text("Nothing drawn yet")).to_be_visible()
        pad = page.locator(".pad")
        box = pad.bounding_box()
        assert box is not None

        def stroke(x: float, top: float, bottom: float) -> None:
            page.mouse.move(box["x"] + x * box["width"], box["y"] + top * box["height"])
            page.mouse.down()
            page.mouse.move(box["x"] + x * box["width"], box["y"] + bottom * box["height"], steps=6)
            page.mouse.up()

        stroke(0.5, 0.2, 0.8)
        drawn = pixels_of(page, ".pad .picture")
        assert drawn[:, :, 0].max() == 200
        page.get_by_role("radio", name="mask").check()
        stroke(0.2, 0.3, 0.7)
        assert np.array_equal(pixels_of(page, ".pad .picture"), drawn), "the mask does not draw on the picture"
        masked = pixels_of(page, ".pad .mask")[:, :, 3]
        page.get_by_role("button", name="Generate").click()
        expect(page.locator("button.tile")).to_have_count(4)
        sources = [image.get_attribute("src") or "" for image in page.locator(".tile img").all()]
        assert len(set(sources)) == 4
        for source in sources:
            kept = page.evaluate(DECODE, source)
            made = np.array(kept, np.uint8).reshape(drawn.shape)
            outside = masked == 0
            assert np.abs(made[outside][:, 0].astype(int) - drawn[outside][:, 0].astype(int)).max() <= 1
            assert not np.array_equal(made[~outside][:, 0], drawn[~outside][:, 0])
        page.get_by_role("button", name="Undo").click()
        assert pixels_of(page, ".pad .mask")[:, :, 3].max() == 0
        page.get_by_role("button", name="Clear").click()
        assert pixels_of(page, ".pad .picture")[:, :, 0].max() == 0


def test_a_point_of_the_map_is_decoded(browser: Browser, mapped: Service) -> None:
    with visiting(browser, mapped.port) as visit:
        page = visit.open("#map?model=vae&x=0.5&y=-0.5&classes=7", wait=False)
        caption = page.locator(".plane figcaption")
        expect(caption).not_to_be_empty()
        sky = page.locator(".sky")
        box = sky.bounding_box()
        assert box is not None
        before = caption.inner_text()
        page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.3 * box["height"], steps=5)
        page.mouse.up()
        expect(caption).not_to_have_text(before)
        sky.press("ArrowLeft")
        state = dict(part.split("=") for part in page.url.partition("?")[2].split("&"))
        expect(caption).to_have_text(f"x {float(state['x']):.2f}, y {float(state['y']):.2f}")
        request = {"point": [state["x"], state["y"]], "class_label": "7", "format": "npy"}
        answer = mapped.client.get("/generate/vae", params=request)
        expected = np.load(io.BytesIO(answer.content))[0]
        shown = pixels_of(page, ".plane canvas.screen")[:, :, :1]
        assert np.abs(shown.astype(int) - expected.astype(int)).max() <= 1
