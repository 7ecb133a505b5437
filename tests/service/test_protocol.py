"""uvicorn's protocol as the service has it, spoken to without a network."""

import asyncio
import gc
from typing import Any
from unittest import mock

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from service.protocol import Protocol

REQUEST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\n"


class Transport(asyncio.Transport):
    """A connection to nowhere."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: bytes | bytearray | memoryview) -> None: ...

    def is_closing(self) -> bool:
        return False


async def speak(app: Any, *packets: bytes) -> None:
    """Send packets on one connection, a turn of the loop after each."""
    config = uvicorn.Config(app, http=Protocol, log_config=None, ws="none", lifespan="off")
    config.load()
    protocol = Protocol(config=config, server_state=ServerState(), app_state={})
    protocol.connection_made(Transport())
    for packet in packets:
        protocol.data_received(packet)
        for _ in range(3):
            await asyncio.sleep(0)
    protocol.timeout_keep_alive_task = mock.Mock()


async def answer(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def test_a_body_that_came_with_its_head_is_at_hand() -> None:
    seen: list[object] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["state"].get("body"))
        await answer(send)

    asyncio.run(speak(app, REQUEST + b"body", REQUEST, b"body"))
    assert seen == [b"body", None]


def test_a_request_leaves_nothing_for_the_garbage_collector() -> None:
    """What refers to itself waits for the collector, which stops every thread for tens of milliseconds under load."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await answer(send)

    async def scenario() -> None:
        await speak(app, REQUEST + b"body")
        gc.collect()
        gc.disable()
        try:
            await speak(app, *[REQUEST + b"body"])
            one = gc.collect()
            await speak(app, *[REQUEST + b"body"] * 20)
            assert gc.collect() <= one
        finally:
            gc.enable()

    asyncio.run(scenario())
