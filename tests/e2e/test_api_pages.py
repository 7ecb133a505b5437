"""The interactive pages of the API, in a real browser."""

from typing import TYPE_CHECKING

import pytest

from tests.e2e.process import Service

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


def test_swagger_shows_every_operation_and_runs_one(service: Service, browser: "Browser") -> None:
    from playwright.sync_api import expect

    from tests.e2e.browser import visiting

    with visiting(browser, service.port) as visit:
        page = visit.page
        page.goto(f"{visit.base}/docs")
        operations = page.locator(".opblock")
        paths = service.client.get("/openapi.json").json()["paths"]
        expect(operations).to_have_count(sum(len(item) for item in paths.values()))
        expect(page.locator(".opblock-tag").first).to_contain_text("images")
        expect(operations.first).to_contain_text("/generate/{model}")
        jobs = page.locator("#operations-jobs-list_jobs")
        jobs.locator(".opblock-summary-control").click()
        jobs.get_by_role("button", name="Try it out").click()
        jobs.get_by_role("button", name="Execute").click()
        expect(jobs.locator(".live-responses-table .response-col_status").last).to_contain_text("200")
        assert (visit.complaints, visit.outside) == ([], [])


def test_redoc_shows_every_operation(service: Service, browser: "Browser") -> None:
    from playwright.sync_api import expect

    from tests.e2e.browser import visiting

    with visiting(browser, service.port) as visit:
        visit.page.goto(f"{visit.base}/redoc")
        expect(visit.page.get_by_role("heading", name="Post generate")).to_be_visible()
        assert (visit.complaints, visit.outside) == ([], [])


def test_an_operation_fits_on_a_phone(service: Service, browser: "Browser") -> None:
    from playwright.sync_api import expect

    from tests.e2e.browser import visiting

    with visiting(browser, service.port, size=(390, 844)) as visit:
        page = visit.page
        page.goto(f"{visit.base}/docs")
        for operation in ("images-post_generate", "images-get_generate", "jobs-get_job_result"):
            shown = page.locator(f"#operations-{operation}")
            shown.locator(".opblock-summary-control").click()
            expect(shown.locator(".opblock-description")).to_contain_text("JavaScript")
            expect(shown.locator(".responses-table")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
