"""Every verb against answers that no service of ours gives: one line, exit code 1, no traceback."""

import os
from pathlib import Path

import pytest

from service.cli import main
from tests.service.cli.conftest import FakeService

VERBS = {
    "models": ["GET /models"],
    "inspect one.png": ["POST /inspect"],
    "generate ddpm": ["POST /generate/ddpm", "GET /jobs/job-1", "GET /jobs/job-1/result"],
    "film ddpm": ["POST /generate/ddpm"],
    "interpolate ddpm": ["POST /interpolate"],
    "versions": ["GET /models"],
    "load ddpm": ["POST /models/ddpm/load"],
    "reload": ["POST /reload"],
    "reload ddpm": ["POST /models/ddpm/reload"],
    "rollback ddpm": ["POST /models/ddpm/rollback"],
    "unload ddpm": ["POST /models/ddpm/unload"],
}
BODIES = (
    *(
        b"",
        b"<html>",
        b"[" * 100_000,
        b"null",
        b"{}",
        b'"text"',
        b"\xff",
        b"1e999",
        b"[1]",
        b"[null]",
        b'[{"model": 5}]',
    ),
    *(b'{"detail": 5}', b'{"status": {}, "code": [], "detail": null, "errors": 3, "request_id": 1}'),
    *(b'{"status": 400, "code": "x", "detail": "d", "request_id": "r", "errors": [7]}', b'{"error": "busy"}'),
)
CASES = [(verb, request) for verb, requests in VERBS.items() for request in requests]


@pytest.fixture(autouse=True)
def somewhere(fake: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENSERVE_ADMIN_PORT", os.environ["GENSERVE_URL"].rsplit(":", 1)[1])
    monkeypatch.setattr("service.client.blocking.time.sleep", lambda seconds: None)
    (tmp_path / "one.png").write_bytes(b"a picture")


def fails_in_one_line(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verb.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(("verb", "request_line"), CASES)
def test_bodies_of_another_kind(
    fake: FakeService, verb: str, request_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for status in (200, 503):
        for body in BODIES:
            if status == 200 and request_line.endswith("/result"):
                continue  # a file may hold anything
            fake.answers[request_line] = (status, body)
            fails_in_one_line(verb, capsys)


@pytest.mark.parametrize(("verb", "request_line"), CASES)
def test_a_service_that_goes_in_the_middle_of_an_answer(
    fake: FakeService, verb: str, request_line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers[request_line] = (200, b"[")
    fake.withheld = 10
    fails_in_one_line(verb, capsys)


@pytest.mark.parametrize("verb", ["models", "generate ddpm"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "gzip, deflate, gzip"},
        {"Content-Length": "many"},
        {"Transfer-Encoding": "chunked"},
    ],
)
def test_headers_that_lie(
    fake: FakeService, verb: str, headers: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    fake.answers["GET /models"] = (200, [])
    fake.headers, fake.withheld = headers, 1
    fails_in_one_line(verb, capsys)


@pytest.mark.parametrize("headers", [{"X-Seed": "seven"}, {"X-Seed": "9" * 5000}])
def test_seeds_that_are_none(fake: FakeService, headers: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    fake.headers = headers
    fails_in_one_line("generate ddpm", capsys)


def test_words_of_a_service_are_one_line(fake: FakeService, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"status": 400, "code": "c", "detail": "a\nb\x1b[2J", "errors": [], "request_id": "r"}
    fake.answers["GET /models"] = (400, problem)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "error: a b\\x1b[2J\n"
