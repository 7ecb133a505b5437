"""uvicorn's protocol as the service has it, spoken to without a network."""

import asyncio
import gc
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.request_info import info_of
from service.server import protocol
from service.server.connections import Connections
from service.server.protocol import MAX_HEAD_BYTES, MAX_HEADERS, MAX_QUERY_FIELDS, MOST_PIPELINED, SLICE_BYTES, Protocol

REQUEST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n"


class Transport(asyncio.Transport):
    """A connection to nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def __init__(self) -> None:
        super().__init__()
        self.sent = bytearray()
        self.closed = self.paused = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.sent += data

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.closed = True


async def speak(app: Any, *packets: bytes, wait_s: float = 0, answers: int = 0, **options: Any) -> Transport:
    """Send packets on one connection, a turn of the loop after each, and wait, for that many answers too."""
    options = {"http": Protocol, "log_config": None, "ws": "none", "lifespan": "off", "proxy_headers": False} | options
    config = uvicorn.Config(app, **options)
    config.load()
    connection = options["http"](config=config, server_state=Connections(), app_state={})
    transport = Transport()
    connection.connection_made(transport)
    for packet in packets:
        connection.data_received(packet)
        for _ in range(3):
            await asyncio.sleep(0)
    await asyncio.sleep(wait_s)
    async with asyncio.timeout(60):
        while transport.sent.count(b"HTTP/1.1 200 ") < answers:
            await asyncio.sleep(0)
    connection.connection_lost(RuntimeError("the test is over"))
    return transport


async def answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_a_body_that_came_with_its_head_is_at_hand() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(info_of(scope).body)
        await answer(send)

    asyncio.run(speak(app, REQUEST + b"body", REQUEST, b"body"))
    assert seen == [b"body", None]


async def test_a_request_leaves_nothing_for_the_garbage_collector() -> None:
    """What refers to itself waits for the collector, which stops every thread for tens of milliseconds under load."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    await speak(app, REQUEST + b"body")
    gc.collect()
    gc.disable()
    try:
        await speak(app, *[REQUEST + b"body"])
        one = gc.collect()
        left = []
        for _ in range(3):  # other threads leave something now and then; a request would every time
            await speak(app, *[REQUEST + b"body"] * 20)
            left.append(gc.collect())
        assert min(left) <= one
    finally:
        gc.enable()


def test_a_running_request_learns_at_once_that_its_client_has_gone() -> None:
    told: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        info_of(scope).disconnect.on_disconnect(lambda: told.append(scope["path"]))
        await asyncio.sleep(10)

    async def scenario() -> None:
        await speak(app, b"GET /first HTTP/1.1\r\nHost: test\r\n\r\n" + b"GET /next HTTP/1.1\r\nHost: test\r\n\r\n")

    asyncio.run(scenario())
    assert told == ["/first"]


LARGE = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n" + bytes(100_000)


@pytest.mark.parametrize(
    ("data", "paused"),
    [(REQUEST + b"body", False), (17 * (REQUEST + b"body"), False), (18 * (REQUEST + b"body"), True), (LARGE, False)],
    ids=["one", "some wait", "many wait", "large body"],
)
def test_a_connection_is_read_while_few_requests_wait(data: bytes, paused: bool) -> None:
    """Its end is not seen otherwise."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(10)

    assert asyncio.run(speak(app, data)).paused == paused


async def ok(scope: Scope, receive: Receive, send: Send) -> None:
    await answer(send)


def test_a_head_without_an_end_is_not_collected() -> None:
    pieces = [b"POST / HTTP/1.1\r\n", *[b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(MAX_HEAD_BYTES // 1000 + 2)]]
    transport = asyncio.run(speak(ok, *pieces))
    assert transport.sent.startswith(b"HTTP/1.1 431 ")
    assert transport.closed


def test_a_long_head_that_has_an_end_is_read() -> None:
    pieces = [b"POST / HTTP/1.1\r\n", *[b"X-%d: %b\r\n" % (i, b"y" * 1000) for i in range(50)], b"\r\n"]
    transport = asyncio.run(speak(ok, *pieces * 3))
    assert transport.sent.count(b"HTTP/1.1 200 ") == 3
    assert not transport.closed


def test_a_body_is_no_head() -> None:
    pieces = [b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\n", *[b"x" * 1000] * 100]
    transport = asyncio.run(speak(ok, *pieces, wait_s=0.1))
    assert transport.sent.startswith(b"HTTP/1.1 200 ")
    assert not transport.closed


@pytest.mark.parametrize(
    ("packets", "said"),
    [
        ([b"POST / HT"], b"HTTP/1.1 408 "),
        ([REQUEST + b"body", b"POST / HT"], b"HTTP/1.1 200 "),
        ([b"\r\n"], b"HTTP/1.1 408 "),
    ],
)
def test_a_head_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, packets: list[bytes], said: bytes
) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_S", 0.05)
    transport = asyncio.run(speak(ok, *packets, wait_s=0.2))
    assert transport.closed
    assert transport.sent.startswith(said)
    assert bool(transport.sent) == bool(said)
    assert (b"408" in transport.sent) == any(not packet.startswith(REQUEST) for packet in packets)


@pytest.mark.parametrize("packets", [[], [REQUEST + b"body"]], ids=["no request", "a request"])
def test_a_silent_connection_is_kept_for_the_time_between_requests(
    monkeypatch: pytest.MonkeyPatch, packets: list[bytes]
) -> None:
    """Proxies connect ahead, and keep connections for the next request."""
    monkeypatch.setattr(protocol, "MAX_HEAD_S", 0.05)
    assert not asyncio.run(speak(ok, *packets, wait_s=0.2)).closed
    assert asyncio.run(speak(ok, *packets, wait_s=0.2, timeout_keep_alive=0.05)).closed


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = scope["path"].encode() + b" " + bytes(info_of(scope).body or b"?")
    headers = [(b"content-length", b"%d" % len(body)), *scope["headers"]]
    await asyncio.sleep(0.01)
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_and_echo(scope: Scope, receive: Receive, send: Send) -> None:
    """The method and the body, all of which is waited for."""
    body, more = scope["method"].encode() + b" ", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message["body"]
        more = message["more_body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


UPGRADE = b"POST /a HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 4\r\n\r\n"
CHUNKED = UPGRADE.replace(b"Content-Length: 4", b"Transfer-Encoding: chunked")


@pytest.mark.parametrize(
    "packets",
    [[UPGRADE + b"body"], [UPGRADE, b"body"], [UPGRADE[:30], UPGRADE[30:] + b"bo", b"dy"]],
    ids=["at once", "body behind", "in pieces"],
)
def test_a_wish_for_another_protocol_is_passed_over_and_the_body_is_the_requests(packets: list[bytes]) -> None:
    sent = asyncio.run(speak(echo, *packets, wait_s=0.1)).sent
    assert sent.count(b"HTTP/1.1 ") == 1
    assert b"\r\n\r\n/a " in sent
    assert b"upgrade: h2c" not in sent
    later = asyncio.run(speak(echo, UPGRADE + b"body" + REQUEST + b"more", wait_s=0.1)).sent
    assert later.endswith(b"\r\n\r\n/ more")
    assert later.count(b"HTTP/1.1 200 ") == 2


@pytest.mark.parametrize(
    "request_",
    [
        UPGRADE.replace(b"Upgrade\r", b"close, Upgrade\r", 1) + b"body",
        UPGRADE.replace(b"HTTP/1.1", b"HTTP/1.0") + b"body",
        CHUNKED.replace(b"Upgrade\r", b"close, Upgrade\r", 1) + b"4\r\nbody\r\n0\r\n\r\n",
    ],
    ids=["close", "1.0", "close, chunked"],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_request_to_switch_protocols_is_answered_on_a_connection_that_closes(request_: bytes, size: int) -> None:
    pieces = [request_[start : start + size] for start in range(0, len(request_), size)]
    transport = asyncio.run(speak(read_and_echo, *pieces, wait_s=0.1))
    assert transport.sent.count(b"HTTP/1.1 200 ") == 1
    assert transport.sent.endswith(b"\r\n\r\nPOST body")
    assert transport.closed


def test_connect_is_refused_behind_the_answers_to_what_came_before() -> None:
    for target in (b"/", b"test:443", b"*"):
        connect = b"CONNECT %b HTTP/1.1\r\nHost: test\r\n\r\n" % target
        alone = asyncio.run(speak(ok, connect + b"anything", b"more"))
        assert alone.sent.startswith(b"HTTP/1.1 405 Method Not Allowed\r\nallow: \r\n")
        assert alone.sent.count(b"HTTP/1.1 ") == 1
        assert alone.closed
        behind = asyncio.run(speak(echo, b"GET /first HTTP/1.1\r\nHost: test\r\n\r\n" + connect, b"more", wait_s=0.1))
        assert behind.sent.startswith(b"HTTP/1.1 200 ")
        assert behind.sent.count(b"HTTP/1.1 ") == 1
        assert behind.closed


def test_a_head_that_is_too_long_does_not_end_the_request_before_it() -> None:
    first = b"GET /first HTTP/1.1\r\nHost: test\r\n\r\n"
    transport = asyncio.run(
        speak(echo, first + b"GET / HTTP/1.1\r\nX: ", bytes(MAX_HEAD_BYTES + 1).replace(b"\0", b"y"), wait_s=0.1)
    )
    assert transport.sent.startswith(b"HTTP/1.1 200 ")
    assert transport.closed


async def stream(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for piece in (b"one", b"", b"two"):
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize("head", [b"", b"Connection: keep-alive\r\n"], ids=["plain", "keep-alive"])
def test_an_answer_of_unknown_length_to_http_1_0_ends_with_the_connection(head: bytes) -> None:
    transport = asyncio.run(speak(stream, b"GET / HTTP/1.0\r\n%b\r\n" % head))
    assert b"chunked" not in transport.sent
    assert b"\r\nconnection: close\r\n" in transport.sent
    assert transport.sent.endswith(b"\r\n\r\nonetwo")
    assert transport.closed
    later = asyncio.run(speak(stream, b"GET / HTTP/1.1\r\n\r\n"))
    assert later.sent.endswith(b"\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert not later.closed


def test_many_pipelined_requests_are_parsed_as_they_are_answered() -> None:
    """Else one read of the socket would make thousands of requests, which are answered one at a time."""
    begun = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.append(scope["path"])
        await answer(send)

    most = 0

    class Counting(Protocol):
        def on_headers_complete(self) -> None:
            nonlocal most
            super().on_headers_complete()
            most = max(most, len(self.pipeline))

    paths = [f"/{number}" for number in range(2000)]
    data = b"".join(b"GET %b HTTP/1.1\r\n\r\n" % path.encode() for path in paths)
    transport = asyncio.run(speak(app, data, answers=len(paths), http=Counting))
    assert begun == paths
    assert transport.sent.count(b"HTTP/1.1 200 ") == len(paths)
    assert most < MOST_PIPELINED + SLICE_BYTES / 16


def test_what_is_no_http_leaves_the_request_before_it_its_answer() -> None:
    whole = b"GET /first HTTP/1.1\r\nHost: test\r\n\r\n"
    transport = asyncio.run(speak(echo, whole + b"GARBAGE\x00\r\n\r\n", b"more", wait_s=0.1))
    assert transport.sent.startswith(b"HTTP/1.1 200 ")
    assert transport.sent.count(b"HTTP/1.1 ") == 1
    assert transport.closed
    alone = asyncio.run(speak(echo, b"GARBAGE\x00\r\n\r\n"))
    assert alone.sent.startswith(b"HTTP/1.1 400 ")
    assert alone.closed


def test_headers_behind_a_body_do_not_count_and_come_to_an_end() -> None:
    chunked = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n"
    told = asyncio.run(speak(echo, chunked + b"Prefer: respond-async\r\n\r\n", wait_s=0.1)).sent
    assert told.startswith(b"HTTP/1.1 200 ")
    assert b"prefer" not in told
    line = b"X: " + bytes(40_000).replace(b"\0", b"y")
    assert asyncio.run(speak(echo, chunked + line, line, line)).closed


def test_a_long_body_does_not_count_to_the_head_behind_it() -> None:
    large = b"POST /large HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100_000
    transport = asyncio.run(speak(echo, large + REQUEST[:20], REQUEST[20:] + b"body", wait_s=0.1))
    assert transport.sent.count(b"HTTP/1.1 200 ") == 2


def test_bytes_between_requests_do_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_S", 0.05)
    assert asyncio.run(speak(ok, REQUEST + b"body", b"\r\n", wait_s=0.2)).closed


def test_a_head_behind_a_request_that_takes_long_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_HEAD_S", 0.05)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.2)
        await answer(send)

    transport = asyncio.run(speak(slow, REQUEST + b"body" + REQUEST[:20], wait_s=0.3))
    assert transport.sent.startswith(b"HTTP/1.1 200 ")
    assert not transport.closed


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET / HTTP/1.1\r\n" + b"x:\r\n" * (MAX_HEADERS + 1), b"431"),
        (b"GET /?" + b"a&" * MAX_QUERY_FIELDS + b" HTTP/1.1\r\n", b"414"),
        (b"nothing\r\n", b"400"),
    ],
)
def test_a_head_of_many_parts_is_refused_before_it_is_handled(head: bytes, status: bytes) -> None:
    """Each part costs every handler time, however short it is."""
    transport = asyncio.run(speak(ok, head + b"\r\n"))
    assert transport.sent.startswith(b"HTTP/1.1 %b " % status)
    assert b"\r\ncontent-type: application/problem+json\r\n" in transport.sent
    assert transport.closed


def test_a_head_of_as_many_parts_as_allowed_is_handled() -> None:
    head = b"GET /?" + b"a&" * (MAX_QUERY_FIELDS - 1) + b" HTTP/1.1\r\n" + b"x:\r\n" * MAX_HEADERS
    assert asyncio.run(speak(ok, head + b"\r\n")).sent.startswith(b"HTTP/1.1 200 ")
