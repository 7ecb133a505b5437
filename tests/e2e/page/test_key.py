"""The page of a service with API keys: it asks for one, sends it with everything, and forgets it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.access.keys import line_of
from tests.e2e.process import ROOT, Service, serving

pytestmark = pytest.mark.browser
pytest.importorskip("playwright", reason="needs the package playwright, part of the dev extra")
from playwright.sync_api import Browser, Page, expect  # noqa: E402  (where it is there)

from tests.e2e.browser import DONE, visiting  # noqa: E402
from tests.e2e.page.axe import axe_of, axe_script  # noqa: E402

KEY, METRICS = "the-key-of-the-page", "the-key-of-prometheus"
GALLERY = "#gallery?model=gan&seed=5&n=1&classes=8"
STORED = "[localStorage, sessionStorage].map((storage) => Object.values(storage).join())"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("locked")
    shutil.copytree(ROOT / "weights" / "gan", folder / "weights" / "gan")
    keys = folder / "keys.toml"
    keys.write_text("\n".join([line_of("page", KEY, ["generate"]), line_of("prometheus", METRICS, ["metrics"])]))
    with serving(folder / "weights", engine_threads=1, api_keys_file=keys) as running:
        yield running


def enter(page: Page, key: str) -> None:
    dialog = page.get_by_role("dialog", name="This service needs an API key")
    dialog.get_by_label("API key", exact=True).fill(key)
    dialog.get_by_role("button", name="Use this key").click()


def test_the_page_asks_for_a_key_and_sends_it_with_every_request(browser: Browser, locked: Service) -> None:
    with visiting(browser, locked.port) as visit:
        page = visit.open(GALLERY, wait=False)
        expect(page.get_by_label("API key", exact=True)).to_be_focused()
        enter(page, f" {KEY} ")
        expect(page.locator(DONE)).to_be_attached()  # an event stream
        page.locator("button.tile").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Copy as curl")).to_be_visible()  # an upload
        with page.expect_download() as download:  # a file
            dialog.get_by_role("button", name="WebP").click()
        assert download.value.path().read_bytes()[8:12] == b"WEBP"
        page.keyboard.press("Escape")
        expect(page.locator(".meter")).to_have_count(1)  # JSON, again and again
        in_all_tabs, in_this_tab = page.evaluate(STORED)
        assert KEY not in in_all_tabs
        assert KEY in in_this_tab
        page.reload()
        expect(page.locator(DONE)).to_be_attached()
        assert [each for each in visit.complaints if "401" not in each] == []


def test_a_key_that_is_not_valid_is_asked_for_again(browser: Browser, locked: Service) -> None:
    with visiting(browser, locked.port) as visit:
        page = visit.open(GALLERY, wait=False)
        enter(page, "wrong")
        expect(page.get_by_role("alert")).to_have_text("This is not a valid API key.")
        enter(page, METRICS)
        expect(page.get_by_role("alert")).to_have_text(re.compile("no scope for this. It needs: generate"))
        enter(page, "ключ")
        expect(page.get_by_label("API key", exact=True)).to_be_focused()  # it is no key: it is not sent
        enter(page, KEY)
        expect(page.locator(DONE)).to_be_attached()


def test_the_dialog_can_be_cancelled_and_opened_again(browser: Browser, locked: Service) -> None:
    with visiting(browser, locked.port) as visit:
        page = visit.open(GALLERY, wait=False)
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        failure = page.locator(".failure")
        expect(failure.get_by_role("heading")).to_have_text("An API key is needed")
        expect(failure).to_contain_text("The service answers only requests with a key.")
        expect(page.get_by_role("button", name="Forget key")).to_be_hidden()
        failure.get_by_role("button", name="Try again").click()
        enter(page, KEY)
        expect(page.locator(DONE)).to_be_attached()


def test_the_key_can_be_forgotten(browser: Browser, locked: Service) -> None:
    with visiting(browser, locked.port) as visit:
        page = visit.open(GALLERY, wait=False)
        enter(page, KEY)
        expect(page.locator(DONE)).to_be_attached()
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert KEY not in "".join(page.evaluate(STORED))


def test_a_key_that_ends_is_asked_for_once_by_the_next_request_of_the_user(browser: Browser, locked: Service) -> None:
    """The status, which is read every few seconds, opens no dialog."""
    with visiting(browser, locked.port) as visit:
        page = visit.page
        page.clock.install()
        visit.open(GALLERY, wait=False)
        enter(page, KEY)
        expect(page.locator(DONE)).to_be_attached()
        page.evaluate("sessionStorage.setItem('api-key', 'ended')")
        with page.expect_response(lambda response: "stats" in response.url and response.status == 401):
            page.clock.run_for(6000)
        expect(page.locator(".live")).to_have_text("An API key is needed")
        expect(page.get_by_role("dialog")).to_have_count(0)
        page.get_by_role("button", name="Generate").click()
        expect(page.get_by_role("dialog")).to_have_count(1)
        enter(page, KEY)
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.locator(DONE)).to_be_attached()


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=["wide", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_dialog_is_accessible(
    browser: Browser, locked: Service, tmp_path: Path, size: tuple[int, int], scheme: Any
) -> None:
    """PAGE_PICTURES names a folder for the screenshots."""
    folder = Path(os.environ.get("PAGE_PICTURES", tmp_path))
    axe = axe_script()
    with visiting(browser, locked.port, size=size, scheme=scheme) as visit:
        page = visit.open(GALLERY, wait=False)
        enter(page, "wrong")
        expect(page.get_by_role("alert")).to_be_visible()
        page.evaluate(axe)
        assert axe_of(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=folder / f"page-key-{scheme}-{size[0]}.png")
        enter(page, KEY)
        expect(page.locator(DONE)).to_be_attached()
        assert axe_of(page) == []
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=folder / f"page-keyed-{scheme}-{size[0]}.png")
