"""Any bytes at all, in pieces of any size: parsing them takes bounded work, and a complete request is answered."""

import asyncio
import itertools
import re
from collections.abc import Sequence
from typing import Any

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.server.protocol import SLICE_BYTES
from tests.service.server.test_protocol import read_and_echo, speak

#: All that llhttp knows, and some that it does not.
METHODS = [
    *("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "COPY", "LOCK"),
    *("MKCOL", "MOVE", "PROPFIND", "PROPPATCH", "SEARCH", "UNLOCK", "BIND", "REBIND", "UNBIND", "ACL"),
    *("REPORT", "MKACTIVITY", "CHECKOUT", "MERGE", "M-SEARCH", "NOTIFY", "SUBSCRIBE", "UNSUBSCRIBE"),
    *("PURGE", "MKCALENDAR", "LINK", "UNLINK", "SOURCE", "QUERY", "PRI", "DESCRIBE", "ANNOUNCE", "SETUP"),
    *("PLAY", "PAUSE", "TEARDOWN", "GET_PARAMETER", "SET_PARAMETER", "REDIRECT", "RECORD", "FLUSH"),
    *("BREW", "get"),
]
VERSIONS = ["HTTP/0.9", "HTTP/1.0", "HTTP/1.1", "HTTP/2.0", "HTTP/1.2", "ICE/1.0", "RTSP/1.0", ""]
TARGETS = ["/", "/a?b=c", "*", "test:443", "http://test/a", "http://test", "//", "/%zz", ""]
HEADERS = [
    "Host: test",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: Upgrade",
    "Connection: Upgrade, HTTP2-Settings, close",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "UPGRADE:",
    "Expect: 100-continue",
    "Folded: a\r\n b",
    "Empty:",
    ": nameless",
]
FRAMINGS = [
    ("", b""),
    ("Content-Length: 4\r\n", b"body"),
    ("Content-Length: 0\r\n", b""),
    ("Transfer-Encoding: chunked\r\n", b"4\r\nbody\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", b"2;a=b\r\nbo\r\n2\r\ndy\r\n0\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", b"0\r\n\r\n"),
    ("Content-Length: 9\r\n", b"body"),
]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request that need not be a valid one."""
    method, target, version = (draw(st.sampled_from(each)) for each in (METHODS, TARGETS, VERSIONS))
    headers = "".join(f"{line}\r\n" for line in draw(st.lists(st.sampled_from(HEADERS), max_size=4)))
    framing, body = draw(st.sampled_from(FRAMINGS))
    return f"{method} {target} {version}\r\n{headers}{framing}\r\n".encode() + body


def pieces_of(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """``data`` cut at ``cuts``."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places) if end > start]


class Watched:
    """llhttp that counts how often it is called, by all parsers of a test, and stops what calls it without an end."""

    calls = most = 0
    kind = httptools.HttpRequestParser

    def __init__(self, protocol: object) -> None:
        self._parser = self.kind(protocol)

    def feed_data(self, data: Any) -> None:
        Watched.calls += 1
        if Watched.calls > Watched.most:
            raise KeyboardInterrupt("The parser is called too often: a loop does not consume its input.")
        self._parser.feed_data(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)


@pytest.fixture(scope="module", autouse=True)
def watched() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(httptools, "HttpRequestParser", Watched)
        yield


def say(data: bytes, cuts: Sequence[int] = ()) -> bytes:
    """What is answered to ``data``, which is parsed with a bounded number of calls."""
    pieces = pieces_of(data, cuts)
    # Once for each piece and slice; twice for each request to switch protocols, which has 40 bytes and more.
    Watched.calls, Watched.most = 0, len(pieces) + len(data) // SLICE_BYTES + len(data) // 20
    return bytes(asyncio.run(speak(read_and_echo, *pieces, wait_s=0)).sent)


STATUS = re.compile(rb"HTTP/1\.1 (\d\d\d) ")


@given(asked=st.lists(requests(), min_size=1, max_size=6), cuts=st.lists(st.integers(0, 10**6), max_size=8))
def test_whatever_is_asked_takes_bounded_work_and_an_answer_is_http(asked: list[bytes], cuts: list[int]) -> None:
    sent = say(b"".join(asked), cuts)
    assert not sent or STATUS.match(sent)
    assert {int(status) for status in STATUS.findall(sent)} <= {100, 200, 400, 405, 431}


@given(noise=st.binary(max_size=200), cuts=st.lists(st.integers(0, 10**6), max_size=8))
def test_noise_takes_bounded_work(noise: bytes, cuts: list[int]) -> None:
    assert not (sent := say(noise, cuts)) or STATUS.match(sent)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_method_of_every_version_is_answered_once(method: str, version: str) -> None:
    sent = say(f"{method} / {version}\r\nHost: test\r\n\r\n".encode())
    assert len(STATUS.findall(sent)) == 1, sent
    status = sent.split(b" ")[1]
    if method == "CONNECT" and version.startswith("HTTP/1.") and version != "HTTP/1.2":
        assert status == b"405"


#: How a connection may be asked for beside the request to switch protocols.
CONNECTIONS = ["Upgrade", "upgrade, close", "keep-alive, Upgrade", "Upgrade, HTTP2-Settings"]


@given(
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "OPTIONS"]),
    version=st.sampled_from(["HTTP/1.0", "HTTP/1.1"]),
    connection=st.sampled_from(CONNECTIONS),
    upgrade=st.sampled_from(["h2c", "websocket", "TLS/1.0", ""]),
    framing=st.sampled_from(FRAMINGS[:5]),
    cuts=st.lists(st.integers(0, 10**6), max_size=8),
)
def test_a_request_to_switch_protocols_is_answered_with_its_body(
    method: str, version: str, connection: str, upgrade: str, framing: tuple[str, bytes], cuts: list[int]
) -> None:
    length, body = framing
    head = f"{method} / {version}\r\nConnection: {connection}\r\nUpgrade: {upgrade}\r\n{length}\r\n"
    sent = say(head.encode() + body, cuts)
    assert STATUS.findall(sent) == [b"200"], sent
    assert sent.endswith(f"{method} ".encode() + (b"body" if b"bo" in body else b""))


def test_the_watch_notices_a_loop() -> None:
    Watched.calls, Watched.most = 0, 3
    parser = Watched(object())
    for _ in range(3):
        parser.feed_data(b"")
    with pytest.raises(KeyboardInterrupt):
        parser.feed_data(b"")
