import json
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import logs
from service.logs import JsonFormatter

logger = logging.getLogger("tests.logs")


def line_of(message: object, *arguments: object, level: int = logging.INFO, **rest: Any) -> dict[str, Any]:
    """What a message becomes, read back from its one line."""
    record = logger.makeRecord(
        logger.name, level, "file.py", 1, message, arguments, rest.pop("exc_info", None), extra=rest
    )
    line = JsonFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert line.isascii()
    assert line.isprintable()
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_says_when_how_severe_where_and_what() -> None:
    line = line_of("model %s is %d", "vae", 1, level=logging.WARNING)
    assert list(line) == ["time", "level", "logger", "message"]
    assert line["level"] == "warning"
    assert line["logger"] == "tests.logs"
    assert line["message"] == "model vae is 1"
    assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)


@given(message=st.text(), extra=st.text())
def test_no_text_breaks_the_line(message: str, extra: str) -> None:
    line = line_of("%s", message, path=extra)
    assert line["message"] == message
    assert line["path"] == extra


@pytest.mark.parametrize(
    "text",
    [
        'x\n{"time": "now", "level": "error", "message": "forged"}',
        "x\r\nforged",
        '", "level": "error',
        "\x1b[31mred\x1b[0m",
        "\u2028\u2029\x85\x00",
        "\ud800",
    ],
)
def test_a_message_cannot_forge_a_line_or_a_field(text: str) -> None:
    line = line_of(text, path=text)
    assert line["message"] == line["path"] == text
    assert line["level"] == "info"


def test_extra_fields_are_in_the_line() -> None:
    line = line_of("model ready", model="vae", rows=[1, 2], file=Path("a/b"), row_ms=0.5, nothing=None)
    assert line.items() >= {"model": "vae", "rows": [1, 2], "file": "a/b", "row_ms": 0.5, "nothing": None}.items()


def test_uvicorns_colours_are_not() -> None:
    assert "color_message" not in line_of("started", color_message="\x1b[1mstarted")


def test_a_traceback_stays_in_the_line() -> None:
    def fail() -> None:
        raise ValueError("first\nsecond")

    try:
        fail()
    except ValueError:
        line = line_of("it failed", exc_info=sys.exc_info(), level=logging.ERROR)
    assert line["message"] == "it failed"
    assert line["traceback"].startswith("Traceback (most recent call last):\n")
    assert line["traceback"].endswith("ValueError: first\nsecond")


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """The root logger without handlers, put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def test_configuring_sends_everyones_records_to_standard_error(
    root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("warning")
    logs.configure("warning")  # the second one replaces the first
    logging.getLogger("uvicorn.error").warning("heard\nonce", extra={"model": "vae"})
    logger.info("not severe enough")
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert json.loads(line).items() >= {"logger": "uvicorn.error", "message": "heard\nonce", "model": "vae"}.items()
