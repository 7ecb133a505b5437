"""How the server takes connections: its clients are sockets that the kernel connects while the loop does not run."""

import asyncio
import logging
import select
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import uvicorn
import uvloop
from starlette.types import ASGIApp, Receive, Scope, Send

from service.server.protocol import Protocol
from service.server.serve import Server

CONNECTIONS = 100


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"5")]})
    await send({"type": "http.response.body", "body": b"hello"})


@asynccontextmanager
async def listening(app: ASGIApp = hello) -> AsyncIterator[int]:
    """The port of a server of ``app``."""
    server = Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None, ws="none", http=Protocol))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await serving


def clients(port: int, count: int) -> list[socket.socket]:
    """Connections that have asked and are not accepted yet."""
    connected = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    for each in connected:
        each.sendall(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n")
    return connected


async def turns_until_answered(waiting: Sequence[socket.socket]) -> int:
    """How many turns of the loop it takes."""
    turns, left = 0, set(waiting)
    while left:
        await asyncio.sleep(0)
        turns += 1
        left -= set(select.select(list(left), [], [], 0)[0])
    return turns


@pytest.mark.parametrize("loop_factory", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_new_connections_are_not_taken_one_in_a_turn(loop_factory: type[asyncio.AbstractEventLoop]) -> None:
    async def scenario() -> int:
        async with listening() as port:
            connected = clients(port, CONNECTIONS)
            turns = await turns_until_answered(connected)
            assert all(each.recv(1000).endswith(b"hello") for each in connected)
            for each in connected:
                each.close()
            return turns

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(scenario()) < CONNECTIONS / 4


def test_who_leaves_before_being_taken_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with listening() as port:
            for each in clients(port, CONNECTIONS):
                each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                each.close()  # with RST
            stays = clients(port, 1)
            await turns_until_answered(stays)
            stays[0].close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, caplog.at_level(logging.WARNING):
        runner.run(scenario())
    assert not caplog.records


def test_a_server_that_stops_takes_nobody_any_more() -> None:
    async def scenario() -> int:
        async with listening() as port:
            pass
        return port

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        port = runner.run(scenario())
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
