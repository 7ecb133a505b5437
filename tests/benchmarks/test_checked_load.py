import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.checked_load import (
    Ask,
    CheckedLoad,
    Sample,
    asked,
    asks_of,
    counts,
    keep_asking,
    seconds_until_next,
    with_references,
)
from benchmarks.connection import Connection, request_bytes


def answer(status: str, content: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers with the request's body; /refused, /broken and /silent do what they say."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
            path = head.split(b" ")[1]
            if path == b"/silent":
                await reader.read()
            if path in (b"/broken", b"/silent"):
                break
            writer.write(answer("503 Busy", b"later") if path == b"/refused" else answer("200 OK", body))
    except asyncio.IncompleteReadError:
        pass
    finally:
        writer.close()


@asynccontextmanager
async def echo() -> AsyncIterator[int]:
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


def ask(path: str, body: str, expected: str | None = None) -> Ask:
    return Ask(request_bytes(path, body), (expected if expected is not None else body).encode())


@pytest.mark.parametrize(
    ("asking", "outcome"),
    [
        (ask("/echo", "a"), "right"),
        (ask("/echo", "a", "b"), "wrong"),
        (ask("/refused", ""), "refused"),
        (ask("/broken", ""), "broken"),
    ],
)
async def test_every_answer_is_judged(asking: Ask, outcome: str) -> None:
    async with echo() as port:
        connection = await Connection.open(port)
        sample = await asked(connection, asking, 1.0)
        connection.close()
    assert (sample.sent_at, sample.outcome) == (1.0, outcome)
    assert sample.reason == ("503 later" if outcome == "refused" else "")


async def test_references_are_what_the_service_answers_first() -> None:
    async with echo() as port:
        known = await with_references(port, asks_of("/echo", {"steps": 2}, 3))
    assert [each.expected for each in known] == [b'{"steps": 2, "seed": %d}' % seed for seed in (1, 2, 3)]


@pytest.mark.parametrize(
    ("asks", "reason"),
    [([ask("/echo", "a")] * 2, "the same picture"), ([ask("/refused", "")], "503")],
)
async def test_references_that_would_hide_a_fault_are_refused(asks: list[Ask], reason: str) -> None:
    async with echo() as port:
        with pytest.raises(ValueError, match=reason):
            await with_references(port, asks)


async def test_a_load_counts_what_is_right_wrong_and_never_answered() -> None:
    mix = [(1.0, [ask("/echo", "a")]), (1.0, [ask("/echo", "a", "b")]), (1.0, [ask("/silent", "")])]
    async with echo() as port:
        load = CheckedLoad(port, mix)
        async with load.running(rate=300.0, drain_s=0.05):
            while not {"right", "wrong"} <= {*counts(load.samples)} or len(load._open) < 2:
                await asyncio.sleep(0.01)
    found = counts(load.samples)
    assert min(found["right"], found["wrong"], found["unanswered"]) > 0
    assert found.total() == found["right"] + found["wrong"] + found["unanswered"]


async def test_a_refused_connection_counts_as_broken() -> None:
    async with echo() as port:
        pass
    load = CheckedLoad(port, [(1.0, [ask("/echo", "a")])])
    async with load.running(rate=300.0, drain_s=1.0):
        while not load.samples:
            await asyncio.sleep(0.01)
    assert {*counts(load.samples)} == {"broken"}


async def test_capacity_is_the_answers_of_a_closed_loop() -> None:
    async with echo() as port:
        load = CheckedLoad(port, [(1.0, [ask("/echo", "a")])])
        capacity_per_s = await load.capacity(connections=2, seconds=0.1)
        async with load.running(rate=1.0, drain_s=0.0):  # closes the connections
            pass
    assert 0 < capacity_per_s <= len(load.samples) / 0.1


async def test_requests_sent_before_a_moment_are_waited_for() -> None:
    async with echo() as port:
        load = CheckedLoad(port, [(1.0, [ask("/echo", "a")])])
        async with load.running(rate=300.0, drain_s=1.0):
            while not load._open:
                await asyncio.sleep(0)
            moment = time.monotonic()
            await load.answered(moment)
            assert all(sent_at >= moment for sent_at in load._open.values())
            assert load.samples


async def test_a_connection_is_asked_until_it_breaks() -> None:
    async with echo() as port:
        connection = await Connection.open(port)
        samples = await keep_asking(connection, [ask("/echo", "a"), ask("/broken", "")], asyncio.Event())
    assert [sample.outcome for sample in samples] == ["right", "broken"]


def test_the_next_answer_is_to_a_request_after_the_death() -> None:
    samples = [
        Sample(9.0, 10.1, "right"),  # sent before: an engine may have computed it already
        Sample(10.1, 10.2, "refused"),
        Sample(10.2, 13.0, "right"),
        Sample(10.3, 12.0, "right"),
    ]
    assert seconds_until_next(samples, 10.0) == 2.0
    assert seconds_until_next(samples[:2], 10.0) == float("inf")
