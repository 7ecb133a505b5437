import json
import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from select import PIPE_BUF
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import logs
from service.logs import AccessLog, Fields, LineHandler, LineWriter, access_fields, as_json, as_text, chunks, renderer
from service.request_info import RequestInfo

logger = logging.getLogger("tests.logs")


def handled(render: Callable[[Fields], str], message: object, *arguments: object, **rest: Any) -> str:
    """The text that a record becomes, without the newline at its end."""
    level, failure = rest.pop("level", logging.INFO), rest.pop("exc_info", None)
    record = logger.makeRecord(logger.name, level, "file.py", 1, message, arguments, failure, extra=rest)
    with patch.object(logs, "LineWriter") as writer:
        LineHandler().emit(record)
    return render(writer.return_value.put.call_args.args[0])


def line_of(message: object, *arguments: object, **rest: Any) -> dict[str, Any]:
    """The same as JSON, read back from its one line."""
    line = handled(as_json, message, *arguments, **rest)
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


@pytest.mark.parametrize(
    ("format", "terminal", "render"),
    [("auto", False, as_json), ("auto", True, as_text), ("json", True, as_json), ("text", False, as_text)],
)
def test_terminals_get_text_unless_set(
    monkeypatch: pytest.MonkeyPatch, format: logs.Format, terminal: bool, render: logs.Render
) -> None:
    monkeypatch.setattr(os, "isatty", lambda descriptor: terminal and descriptor == 2)
    assert renderer(format) == render


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
    root: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    logs.configure("warning")
    logs.configure("warning")  # the second one replaces the first
    logging.getLogger("uvicorn.error").warning("heard\nonce", extra={"model": "vae"})
    logger.info("not severe enough")
    root.handlers[0].close()
    printed = capfd.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert json.loads(line).items() >= {"logger": "uvicorn.error", "message": "heard\nonce", "model": "vae"}.items()


#: Half past midnight on the second day of Unix' time.
NOW = 86_400 + 1_800.0


def access(status: int = 200, path: str = "/generate/vae", **known: Any) -> dict[str, Any]:
    """The line of a request that took 20 ms, read back."""
    line = as_json(access_fields(RequestInfo(arrived_at=5.0, status=status, **known), "POST", path, NOW, 5.02))
    assert line.endswith("}")
    assert len(line.splitlines()) == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_request_has_a_line_with_its_times() -> None:
    assert access(request_id="abc", model="vae", rows=3, stages_s=(0.001, 0.0165, 0.0025)) == {
        "time": "1970-01-02T00:30:00.000+00:00",
        "level": "info",
        "logger": "service.access",
        "message": "request",
        "id": "abc",
        "method": "POST",
        "path": "/generate/vae",
        "model": "vae",
        "rows": 3,
        "queue_ms": 1.0,
        "compute_ms": 16.5,
        "encode_ms": 2.5,
        "total_ms": 20.0,
        "status": 200,
        "outcome": "ok",
    }


def test_a_line_says_what_became_of_the_request() -> None:
    assert access(503, outcome="overloaded", rows=2)["outcome"] == "overloaded"
    assert access(499)["outcome"] == "client-left"
    assert access(404)["outcome"] == "not-found"
    assert access(418)["outcome"] == "error"
    assert not {"rows", "model", "queue_ms"} & access(404).keys()


def test_a_request_without_an_id_gets_one_of_its_own() -> None:
    ids = {access()["id"] for _ in range(100)}
    assert len(ids) == 100


@given(model=st.text(), path=st.text(), given_id=st.text(min_size=1))
def test_no_request_can_forge_a_line_or_a_field(model: str, path: str, given_id: str) -> None:
    line = access(model=model, path=path, request_id=given_id)
    assert (line["model"], line["path"], line["id"]) == (
        model[:80],
        path[:80],
        given_id[:128],
    )
    assert line["outcome"] == "ok"


def test_no_line_is_too_long_to_be_written_in_one_piece() -> None:
    longest = "\U0001f600" * 10_000
    info = RequestInfo(0.0, model=longest, request_id=longest, rows=64, stages_s=(1e5, 1e5, 1e5), status=503)
    fields = access_fields(info, "OPTIONS", longest, NOW, 1e6)
    for render in (as_json, as_text):
        assert 1000 < len(render(fields)) < PIPE_BUF


@given(lengths=st.lists(st.integers(1, PIPE_BUF), max_size=30))
def test_lines_are_written_whole_and_in_order(lengths: list[int]) -> None:
    lines = ["x" * (length - 1) + "\n" for length in lengths]
    found = list(chunks(lines))
    assert "".join(found) == "".join(lines)
    assert all(0 < len(chunk) <= PIPE_BUF and chunk.endswith("\n") for chunk in found)
    assert len(found) <= 1 + 2 * sum(lengths) / PIPE_BUF


def none_lost(lines: int) -> None:
    raise AssertionError(f"{lines} lines were lost")


def lines_of(printed: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in printed.splitlines()]


def test_lines_are_written_in_order_and_before_the_end(capfd: pytest.CaptureFixture[str]) -> None:
    log = AccessLog(none_lost)
    for number in range(1000):
        log.note(RequestInfo(rows=number, status=200), "POST", "/generate/vae")
    log.close()
    assert [line["rows"] for line in lines_of(capfd.readouterr().err)] == list(range(1000))


@pytest.mark.parametrize(("everything", "told"), [(False, [503, 200]), (True, [200, 503, 200])])
def test_polling_is_not_told_unless_asked_for(
    everything: bool, told: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    log = AccessLog(none_lost, everything=everything)
    for path, status in (("/metrics", 200), ("/health/ready", 503), ("/generate/vae", 200)):
        log.note(RequestInfo(status=status), "GET", path)
    log.close()
    assert [line["status"] for line in lines_of(capfd.readouterr().err)] == told


def test_what_finds_no_room_is_counted(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(logs, "WRITE_EVERY_S", 60.0)
    monkeypatch.setattr(logs, "MOST_LINES", 3)
    lost: list[int] = []
    log = AccessLog(lost.append)
    for _ in range(10):
        log.note(RequestInfo(status=200), "GET", "/generate/vae")
    log.close()
    assert sum(lost) == 7
    notice, *lines = lines_of(capfd.readouterr().err)
    assert (notice["level"], notice["message"], notice["lines"]) == ("warning", "log lines were lost", 7)
    assert len(lines) == 3


LINES = [f"{number} {'x' * 100}\n" for number in range(2000)]  # more than a pipe holds


def writer_to(descriptor: int, lost: Callable[[int], object]) -> LineWriter:
    """A writer whose lines are their message alone, but for those about lost lines."""

    def render(fields: Fields) -> str:
        return str(fields["message"]) if fields.keys() == {"message"} else as_json(fields)

    return LineWriter("test", lost, descriptor, render)


def text(line: str) -> Fields:
    return {"message": line.removesuffix("\n")}


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """The ends of a pipe whose writing one does not block, as a shell or a supervisor may leave it."""
    reads, writes = os.pipe()
    os.set_blocking(writes, False)
    yield reads, writes
    for each in (reads, writes):
        with suppress(OSError):
            os.close(each)


def read_until(reads: int, end: bytes) -> bytes:
    """What comes from a pipe up to ``end``."""
    found = b""
    while not found.endswith(end):
        assert select.select([reads], [], [], 60)[0], "nothing more comes"
        found += os.read(reads, 1 << 16)
    return found


def test_a_reader_that_is_slow_for_a_descriptor_that_does_not_block_gets_every_line(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    lost: list[int] = []
    writer = writer_to(writes, lost.append)
    for line in LINES:
        writer.put(text(line), now=True)
    while select.select([], [writes], [], 0)[1]:  # until the pipe is full
        pass
    assert read_until(reads, LINES[-1].encode()).decode().splitlines(keepends=True) == LINES
    writer.put(text("later\n"), now=True)
    assert read_until(reads, b"later\n") == b"later\n"
    writer.close()
    assert lost == []


def test_a_part_that_was_written_is_not_written_again(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reads, writes = pipe
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:7]))
    writer = writer_to(writes, none_lost)
    for line in LINES[:20]:
        writer.put(text(line), now=True)
    assert read_until(reads, LINES[19].encode()).decode() == "".join(LINES[:20])
    writer.close()


def test_a_reader_that_is_gone_costs_lines_and_the_next_one_hears_of_them(pipe: tuple[int, int]) -> None:
    reads, writes = pipe
    os.close(reads)
    happened, lost = threading.Event(), []

    def note(lines: int) -> None:
        lost.append(lines)
        happened.set()

    writer = writer_to(writes, note)
    writer.put(text("nobody reads this\n"), now=True)
    assert happened.wait(60)
    later, takes = os.pipe()
    os.dup2(takes, writes)
    writer.put(text("now\n"), now=True)
    found = read_until(later, b"now\n").decode().splitlines()
    assert json.loads(found[0])["lines"] == sum(lost) == 1
    assert found[1:] == ["now"]
    writer.close()
    os.close(later)
    os.close(takes)


def test_who_logs_never_waits_and_ends_although_nobody_reads(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "WRITE_EVERY_S", 0.01)
    monkeypatch.setattr(logs, "MOST_LINES", 100)
    _, writes = pipe
    lost: list[int] = []
    writer = writer_to(writes, lost.append)
    for line in LINES:
        writer.put(text(line), now=True)
    writer.close()
    assert lost


def test_a_record_that_cannot_be_formatted_is_a_line_that_says_so(
    root: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    logs.configure("info")
    logger.info("it is %s", Broken())
    logger.info("fine")
    root.handlers[0].close()
    broken, fine = lines_of(capfd.readouterr().err)
    assert (
        broken.items()
        >= {"level": "error", "logger": "tests.logs", "message": "a record could not be formatted"}.items()
    )
    assert fine["message"] == "fine"
