"""What connections may cost: their number, slow readers, and the memory of what is not read."""

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from service.metrics import Closed
from service.server import connections
from service.server.connections import NO_LIMITS, Limits
from service.server.listening import refuse_new
from service.server.protocol import Protocol
from service.server.serve import Server

GET = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n"
LARGE = bytes(12_000_000)


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"content-length", b"%d" % len(LARGE))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": LARGE})


async def small(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(app: ASGIApp, limits: Limits = NO_LIMITS) -> AsyncIterator[tuple[Server, int, list[Closed]]]:
    """A running server of ``app``, its port, and why it closed connections."""
    closed: list[Closed] = []
    config = uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none", http=Protocol)
    server = Server(config, limits=limits, on_closed=closed.append)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    try:
        yield server, server.servers[0].sockets[0].getsockname()[1], closed
    finally:
        server.stop_now()
        await running


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


def connect(port: int, receive: int = 1 << 20) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive)
    connection.connect(("127.0.0.1", port))
    connection.setblocking(False)
    return connection


async def read_to_end(connection: socket.socket) -> bytes:
    answer, loop = b"", asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while chunk := await loop.sock_recv(connection, 1 << 20):
            answer += chunk
    return answer


def on_uvloop(scenario: Callable[[], object]) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())  # type: ignore[arg-type]


def test_a_client_that_does_not_read_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_S", 0.05)
    monkeypatch.setattr(connections, "WINDOW_S", 0.2)

    async def scenario() -> None:
        async with serving(large, Limits(read_rate=1000.0)) as (server, port, closed):
            with connect(port, 4096) as connection:
                connection.send(GET)
                await until(lambda: closed)
                assert closed == ["slow-reader"]
                await until(lambda: not server.server_state.connections)
                with pytest.raises(ConnectionResetError):
                    await read_to_end(connection)

    on_uvloop(scenario)


def test_a_client_that_reads_slowly_and_fast_enough_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_S", 0.01)
    monkeypatch.setattr(connections, "WINDOW_S", 5.0)

    async def scenario() -> None:
        async with serving(large, Limits(read_rate=1.0)) as (_, port, closed):
            with connect(port) as connection:
                connection.send(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
                await asyncio.sleep(0.1)  # several looks
                assert (await read_to_end(connection)).endswith(LARGE[:1000])
                assert not closed

    on_uvloop(scenario)


def test_the_slowest_readers_make_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "LOOK_S", 0.05)
    monkeypatch.setattr(connections, "YOUNG_S", 0.2)

    async def scenario() -> None:
        async with serving(large, Limits(unread_bytes=2.5 * len(LARGE))) as (server, port, closed):
            readers = [connect(port, 4096) for _ in range(5)]
            for each in readers:
                each.send(GET)
            await until(lambda: len(closed) == 3)
            assert set(closed) == {"memory"}
            await until(lambda: len(server.server_state.connections) <= 3)  # the loop removes them in its next turn
            for each in readers:
                each.close()

    on_uvloop(scenario)


def test_the_next_request_begins_when_the_response_before_it_is_read() -> None:
    begun = 0

    async def counting(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal begun
        begun += 1
        await large(scope, receive, send)

    async def scenario() -> None:
        async with serving(counting) as (server, port, _):
            with connect(port) as connection:
                connection.send(GET + GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
                await until(lambda: server.server_state.total_requests == 1)
                await asyncio.sleep(0.05)
                assert begun == 1
                assert (await read_to_end(connection)).count(b"HTTP/1.1 200 ") == 2
                assert begun == 2

    on_uvloop(scenario)


def test_more_connections_than_the_limit_are_told_so() -> None:
    async def scenario() -> None:
        async with serving(small, Limits(connections=3)) as (server, port, closed):
            first = [connect(port) for _ in range(3)]
            await until(lambda: len(server.server_state.connections) == 3)
            with connect(port) as last:
                answer = await read_to_end(last)
            assert answer.startswith(b"HTTP/1.1 503 ")
            wait_s = re.search(rb"\r\nretry-after: ([12])\r\n", answer)
            assert wait_s is not None
            assert b"Try again in %b s." % wait_s[1] in answer
            assert b"application/problem+json" in answer
            assert closed == ["too-many"]
            first.pop().close()
            await until(lambda: len(server.server_state.connections) == 2)
            with connect(port) as again:
                again.send(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
                assert (await read_to_end(again)).startswith(b"HTTP/1.1 200 ")
            for each in first:
                each.close()

    on_uvloop(scenario)


async def stopped(app: ASGIApp, *steps: Callable[[Server, int], object], delay_s: float = 0.0) -> None:
    config = uvicorn.Config(
        app, port=0, lifespan="off", log_config=None, ws="none", http=Protocol, timeout_graceful_shutdown=1
    )
    server = Server(config, delay_s=delay_s)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    for step in steps:
        await step(server, port)  # type: ignore[misc]
    await running


def test_a_request_on_a_connection_that_was_made_before_the_end_is_answered() -> None:
    async def scenario() -> None:
        async def late(server: Server, port: int) -> None:
            with connect(port) as connection:
                server.should_exit = True
                await until(lambda: server.server_state.stopping)
                connection.send(GET)
                answer = await read_to_end(connection)
                assert answer.startswith(b"HTTP/1.1 200 ")
                assert b"\r\nconnection: close\r\n" in answer

        await stopped(small, late, delay_s=0.3)

    on_uvloop(scenario)


def test_connections_are_accepted_for_a_while_and_refused_after_that() -> None:
    async def scenario() -> None:
        async def during(server: Server, port: int) -> None:
            server.should_exit = True
            await until(lambda: server.server_state.stopping)
            with connect(port) as connection:
                connection.send(GET)
                assert (await read_to_end(connection)).startswith(b"HTTP/1.1 200 ")
            await until(lambda: not server.servers[0].is_serving())
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))

        await stopped(small, during, delay_s=0.3)

    on_uvloop(scenario)


def test_a_connection_that_the_kernel_made_is_answered_although_no_more_are_made() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as client, socket.socket() as late:
        refuse_new(listener)
        late.settimeout(0.2)
        with pytest.raises(TimeoutError):
            late.connect(listener.getsockname())
        listener.settimeout(30)
        accepted, _ = listener.accept()
        accepted.sendall(b"here")
        assert client.recv(4) == b"here"
        accepted.close()
    listener.close()


def test_what_is_not_done_in_time_is_told_that_the_service_stops(caplog: pytest.LogCaptureFixture) -> None:
    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def scenario() -> None:
        async def ask(server: Server, port: int) -> None:
            with connect(port) as connection:
                connection.send(GET)
                await until(lambda: server.server_state.tasks)
                server.should_exit = True
                answer = await read_to_end(connection)
                assert answer.startswith(b"HTTP/1.1 503 ")
                assert b'"code":"service-stopping"' in answer

        await stopped(endless, ask)

    on_uvloop(scenario)
    assert not [record for record in caplog.records if record.exc_info]
