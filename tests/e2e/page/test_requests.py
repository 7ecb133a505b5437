"""Requests from the page: cancel, progress, errors, retries, files, links, and the pictures of earlier ones."""

import io
import re

import pytest
from PIL import Image

from tests.e2e.process import Service

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, Page, Route, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, visiting  # noqa: E402
from tests.e2e.page.files import bodies_of  # noqa: E402

LONG = "#film?model=ddpm&seed=7&steps=900&compare=0"
FACTS = re.compile(r"[\d.]+ m?s computing · [\d.]+ m?s in all · Frechet distance [\d.]+")
BUSY = {
    "title": "Too Many Requests",
    "detail": "This client has used its share. Try again in 1 s.",
    "code": "share-exceeded",
    "errors": [],
}


def refuse(page: Page, times: int) -> list[str]:
    """Refuse that many requests with 429 and Retry-After; the list grows with each request."""
    asked: list[str] = []

    def answer(route: Route) -> None:
        asked.append(route.request.url)
        if len(asked) <= times:
            route.fulfill(status=429, json=BUSY, headers={"Retry-After": "1"})
        else:
            route.continue_()

    page.route("**/generate/*", answer)
    return asked


def test_a_newer_request_keeps_its_pictures(browser: Browser, shipped: Service) -> None:
    """The end of the older one, which comes later, removes nothing."""
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&n=2&steps=300&seed=5&classes=1", wait=False)
        expect(page.locator(".progress[data-state=running]")).to_be_attached()
        page.get_by_role("button", name="bag", exact=True).click()
        expect(page.locator(DONE)).to_be_attached(timeout=60_000)
        expect(page.locator(".sheet-row h2")).to_have_text(["trouser", "bag"])
        expect(page.locator("button.tile")).to_have_count(4)


def test_a_request_can_be_cancelled(browser: Browser, shipped: Service) -> None:
    """The engine stops too."""
    with visiting(browser, shipped.port) as visit:
        page = visit.open(LONG, wait=False)
        expect(page.locator(".progress[data-state=running]")).to_be_attached()
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator(".progress-text")).to_have_text("Cancelled")
        expect(page.get_by_role("button", name="Cancel")).to_be_hidden()
        shipped.wait_until_idle()
        expect(page.locator(".failure")).to_be_hidden()


def test_progress_estimates_the_time_left(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=2&steps=900", wait=False)
        text = re.compile(r"^0 of 2 · about [\d.]+ m?s left$")
        expect(page.locator(".progress-text")).to_have_text(text, timeout=60_000)
        share = page.locator(".progress progress").evaluate("bar => bar.value")
        assert 0 < share < 1
        page.get_by_role("button", name="Cancel").click()


def test_an_error_is_shown_once_in_plain_words(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5000", wait=False)
        failure = page.locator(".failure")
        expect(failure.get_by_role("heading")).to_have_text("A setting does not fit")
        words = failure.inner_text()
        assert words.count("exceeds the maximum") == words.count("Allowed: 1 to") == 1
        assert "Unprocessable" not in words
        expect(page.locator(".tile")).to_have_count(0)


def test_a_refused_request_is_retried_after_a_countdown(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        asked = refuse(visit.page, 1)
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5", wait=False)
        failure = page.locator(".failure")
        expect(failure.get_by_role("heading")).to_have_text("Too many pictures at once")
        expect(failure).to_contain_text("Trying again in 1 s.")
        expect(page.locator(DONE)).to_be_attached()
        expect(failure).to_be_hidden()
        assert len(asked) == 2


def test_a_countdown_can_be_stopped(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        visit.page.clock.install()
        asked = refuse(visit.page, 9)
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5", wait=False)
        page.get_by_role("button", name="Stop").click()
        page.clock.run_for(5000)
        expect(page.get_by_text("Trying again")).to_have_count(0)
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        assert len(asked) == 1


def test_retries_end_after_five(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        visit.page.clock.install()
        asked = refuse(visit.page, 99)
        page = visit.open("#gallery?model=ddpm&seed=7&n=1&steps=5", wait=False)
        for count in range(1, 6):
            expect(page.get_by_text("Trying again in 1 s.")).to_be_visible()
            assert len(asked) == count
            page.clock.run_for(1000)
        expect(page.get_by_role("button", name="Try again")).to_be_visible()
        expect(page.get_by_text("Trying again")).to_have_count(0)
        page.clock.run_for(5000)
        assert len(asked) == 6


def test_earlier_pictures_survive_a_reload_and_lead_back(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=5&n=2&classes=8")
        expect(page.locator(".trail a")).to_have_count(1)
        page.get_by_label("Seed", exact=True).fill("6")
        page.get_by_role("button", name="Generate").click()
        expect(page.locator(".trail a")).to_have_count(2)
        page.reload()
        expect(page.locator(".trail a")).to_have_count(2)
        page.get_by_role("link", name="gallery, gan, bag, seed 5").click()
        expect(page.get_by_role("button", name="bag, seed 5")).to_be_visible()
        page.locator(".trail").get_by_role("button", name="Clear").click()
        expect(page.locator(".trail")).to_be_hidden()


def test_the_link_makes_the_same_pictures(browser: Browser, shipped: Service) -> None:
    allowed = ("clipboard-read", "clipboard-write")
    with visiting(browser, shipped.port, permissions=allowed) as visit:
        page = visit.open("#gallery?model=gan&n=1&classes=8")
        page.get_by_role("button", name="Copy link").click()
        expect(page.get_by_role("button", name="Copied")).to_be_visible()
        link = page.evaluate("navigator.clipboard.readText()")
        shown = page.locator(".tile img").get_attribute("src") or ""
        visit.open(link.partition("/")[2].partition("/")[2].partition("/")[2])
        expect(page.locator(".tile img")).to_have_attribute("src", shown)


def test_a_class_acts_at_once(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=5&n=2")
        page.get_by_role("button", name="bag", exact=True).click()
        expect(page.get_by_role("button", name="bag, seed 6")).to_be_visible()
        expect(page.locator("button.tile")).to_have_count(2)


def test_arrow_keys_turn_the_pages_of_the_dialog(browser: Browser, shipped: Service) -> None:
    """Again and again, also after a click on a button that the next picture replaces."""
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=gan&seed=5&n=4&classes=8")
        page.locator("button.tile").first.click()
        dialog = page.get_by_role("dialog")
        for place in (2, 3, 4, 1):
            page.keyboard.press("ArrowRight")
            expect(dialog.get_by_role("status")).to_have_text(f"{place} of 4")
        dialog.get_by_role("button", name="Copy as Python").focus()
        for place in (4, 3):
            page.keyboard.press("ArrowLeft")
            expect(dialog.get_by_role("status")).to_have_text(f"{place} of 4")
        expect(dialog.locator(".facts")).to_contain_text("seed\n7", use_inner_text=True)
        dialog.get_by_role("button", name="Lock this seed").click()
        expect(page.get_by_label("Seed", exact=True)).to_have_value("7")
        expect(page.get_by_role("button", name="Locked")).to_be_visible()
        assert len({"seed=7", "lock=1"} & set(page.url.split("&"))) == 2


@pytest.mark.parametrize(
    ("button", "kind", "side", "frames"),
    [("PNG 18 × larger", "PNG", 504, 1), ("WebP", "WEBP", 504, 1), ("Film as GIF", "GIF", 252, 3)],
)
def test_a_picture_can_be_saved(
    browser: Browser, shipped: Service, button: str, kind: str, side: int, frames: int
) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#gallery?model=ddpm&seed=5&n=1&classes=8&steps=5")
        page.locator("button.tile").click()
        with page.expect_download() as download:
            page.get_by_role("dialog").get_by_role("button", name=button).click()
        file = Image.open(io.BytesIO(download.value.path().read_bytes()))
        assert file.format == kind
        assert side <= file.height <= 1.2 * side
        assert getattr(file, "n_frames", 1) >= frames


@pytest.mark.parametrize("view", ["film", "interpolate"])
def test_films_can_be_saved(browser: Browser, shipped: Service, view: str) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open(f"#{view}?model=ddpm&seed=5&from=1&to=2&frames=3&classes=8&steps=5&compare=0")
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as GIF").click()
        file = Image.open(io.BytesIO(download.value.path().read_bytes()))
        assert file.format == "GIF"
        assert getattr(file, "n_frames", 1) >= 3


def test_models_are_compared_at_one_seed(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#compare?model=ddpm&seed=5&n=2&classes=8")
        cards = [card for card in shipped.client.get("/models").json() if "bag" in card["class_names"]]
        names = [card["name"] for card in cards if "generate" in card["does"]]
        rows = page.locator(".compared-row")
        expect(rows.locator("h2")).to_have_text(names)
        for row in rows.all():
            expect(row).to_contain_text(
                re.compile(r"[\d.]+ m?s computing · [\d.]+ m?s in all · Frechet distance [\d.]+")
            )
            expect(row.get_by_role("button", name="bag, seed 6")).to_be_visible()


def test_settings_are_compared_at_one_seed(browser: Browser, shipped: Service) -> None:
    with visiting(browser, shipped.port) as visit:
        page = visit.open("#compare?model=ddpm&seed=5&n=1&classes=8&by=models&steps=5")
        sent = bodies_of(page, "/generate/ddpm")
        page.get_by_role("combobox", name="Compare").select_option("guidance")
        expect(page.locator(".compared-row h2")).to_have_text([f"guidance {scale}" for scale in (1, 2, 3, 5, 7, 10)])
        expect(page.locator(DONE)).to_be_attached()
        expect(page.locator("button.tile")).to_have_count(6)
        assert [each["guidance_scale"] for each in sent] == [1, 2, 3, 5, 7, 10]
        assert {each["steps"] for each in sent} == {5}
        page.get_by_role("combobox", name="Compare").select_option("solver")
        expect(page.locator(".compared-row h2").first).to_have_text("ddpm")
        expect(page.locator(DONE)).to_be_attached()
