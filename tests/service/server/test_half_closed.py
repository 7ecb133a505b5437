"""Clients that end their side of a connection: some have closed it, others wait for the answer."""

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from service.request_info import info_of
from service.server.half_closed import PROBE_DELAYS_S, STATUS_START, ProbedTransport
from tests.service.server.test_protocol import Transport
from tests.service.server.test_serve import listening

LOOPS = [uvloop.new_event_loop, asyncio.new_event_loop]
Loop = Callable[[], asyncio.AbstractEventLoop]


class Work:
    """An application that takes a while, and notes how it ended."""

    def __init__(self, *, streams: bool, work_s: float = 0.15) -> None:  # longer than the first probes are apart
        self.streams, self.work_s = streams, work_s
        self.left = asyncio.Event()
        self.began = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        info_of(scope).disconnect.on_disconnect(self.left.set)
        self.began.set()
        length = [] if self.streams else [(b"content-length", b"6")]
        start = {"type": "http.response.start", "status": 200, "headers": length}
        if self.streams:
            await send(start)
        with suppress(TimeoutError):
            await asyncio.wait_for(self.left.wait(), self.work_s)
        if not self.streams:
            await send(start)
        await send({"type": "http.response.body", "body": b"on", "more_body": True})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"etwo", "more_body": False})


def read_to_end(connection: socket.socket) -> bytes:
    connection.settimeout(60)
    answer = b""
    while chunk := connection.recv(65_536):
        answer += chunk
    return answer


def body_of(answer: bytes) -> bytes:
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"chunked" not in head:
        return body
    whole = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
    return whole


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("streams", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("count", [1, 3])
def test_who_only_half_closes_is_answered(loop: Loop, streams: bool, version: str, count: int) -> None:
    asked = 1 if version == "1.0" else count

    async def scenario() -> bytes:
        async with listening(Work(streams=streams)) as port:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(f"GET / HTTP/{version}\r\nhost: here\r\n\r\n".encode() * asked)
                connection.shutdown(socket.SHUT_WR)
                return await asyncio.to_thread(read_to_end, connection)

    with asyncio.Runner(loop_factory=loop) as runner:
        answers = runner.run(scenario()).split(b"HTTP/1.1 200 OK\r\n")
    assert answers[0] == b""
    assert [body_of(each) for each in answers[1:]] == [b"onetwo"] * asked


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("count", [1, 3])
def test_who_closes_is_missed_before_the_work_is_done(loop: Loop, version: str, count: int) -> None:
    async def scenario() -> None:
        work = Work(streams=False, work_s=3600)
        async with listening(work) as port:
            connection = socket.create_connection(("127.0.0.1", port))
            connection.sendall(f"GET / HTTP/{version}\r\nhost: here\r\n\r\n".encode() * count)
            async with asyncio.timeout(60):
                await work.began.wait()
                connection.close()
                await work.left.wait()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(
    "sent",
    [b"", b"GET / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nhalf"],
    ids=["nothing", "half a head", "half a body"],
)
def test_who_ends_before_a_request_is_complete_is_not_waited_for(loop: Loop, sent: bytes) -> None:
    async def scenario() -> bytes:
        async with listening(Work(streams=False)) as port:
            with socket.create_connection(("127.0.0.1", port)) as connection:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                return await asyncio.to_thread(read_to_end, connection)

    with asyncio.Runner(loop_factory=loop) as runner:
        assert runner.run(scenario()) == b""


@pytest.mark.parametrize("probes", range(len(STATUS_START) + 3))
def test_what_probes_have_sent_is_left_out_of_the_answer_once(probes: int) -> None:
    transport = Transport()
    begun = ProbedTransport(transport)
    for _ in range(probes):
        begun.probe()
    begun.write(b"HTTP/1.1 200 OK\r\n\r\n")
    begun.write(b"body")
    assert transport.sent == b"HTTP/1.1 200 OK\r\n\r\nbody"


def test_probes_do_not_complete_the_beginning_of_an_answer() -> None:
    assert 1 + len(PROBE_DELAYS_S) < len(STATUS_START)
