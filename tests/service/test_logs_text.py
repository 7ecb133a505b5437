"""Log lines for people."""

import logging
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from service import logs
from service.logs import access_fields, as_text
from service.request_info import RequestInfo
from tests.service.test_logs import NOW, handled, line_of


def test_text_says_the_same_for_people() -> None:
    line = handled(
        as_text, "model %s is ready", "vae", level=logging.WARNING, row_ms=0.5, why="no room", path=Path("a/b")
    )
    clock, rest = line.split(" ", 1)
    assert datetime.strptime(clock, "%H:%M:%S")
    assert rest == 'warning model vae is ready logger=tests.logs row_ms=0.5 why="no room" path="a/b"'


@pytest.mark.parametrize("text", ["a\nb", "\x1b[31mred", "\u2028", "\x00", "\ud800", "é"])
def test_text_controls_no_terminal_and_adds_no_line(text: str) -> None:
    line = handled(as_text, text, path=text, **{text: 1})
    assert line.isascii()
    assert line.isprintable()
    assert " path=" in line


def test_a_sentence_is_all_that_people_read_and_no_program_gets() -> None:
    about = {"model": "vae", "row_ms": 0.62512, logs.SENTENCE: "vae ready: 0.625 ms a picture"}
    assert handled(as_text, "model ready", **about).split(" ", 1)[1] == "vae ready: 0.625 ms a picture"
    line = line_of("model ready", **about)
    assert (line["message"], line["model"]) == ("model ready", "vae")
    assert logs.SENTENCE not in line


def test_text_has_the_time_of_this_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "XYZ-5")
    time.tzset()
    try:
        fields = {"time": "2026-11-30T23:30:05.123+00:00", "level": "info", "logger": "x", "message": "late"}
        assert as_text(fields) == "04:30:05 late"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_request_is_short_for_people() -> None:
    info = RequestInfo(5.0, model="vae", request_id="7af", rows=4, stages_s=(0.1, 0.2, 0.3), status=200)
    fields = access_fields(info, "POST", "/generate/vae", NOW, 5.0123)
    assert as_text(fields).split(" ", 1)[1] == "POST /generate/vae 200 in 12.3 ms rows=4 id=7af"
    info.status, info.outcome = 503, "overloaded"
    fields = access_fields(info, "POST", "/a\nb", NOW, 5.0123)
    assert as_text(fields).split(" ", 1)[1] == "POST /a\\nb 503 in 12.3 ms outcome=overloaded rows=4 id=7af"


def test_text_has_the_traceback_below() -> None:
    try:
        raise ValueError("first\nsecond\x1b[31m")
    except ValueError:
        line = handled(as_text, "it failed", exc_info=sys.exc_info())
    first, *traceback = line.split("\n")
    assert first.endswith(" it failed")
    assert traceback[0] == "    Traceback (most recent call last):"
    assert traceback[-2:] == ["    ValueError: first", "    second\\u001b[31m"]
