import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from contextlib import aclosing

import httpx
import pytest

from service.client import AsyncClient, AsyncJob, Client, Completed, Job, Retries, Started, Unreachable
from tests.service.client.answers import generation, refusal


def public(kind: type) -> dict[str, list[str]]:
    """The methods of a class, and the names of what they take."""
    methods = inspect.getmembers(kind, inspect.isfunction)
    return {name: list(inspect.signature(method).parameters) for name, method in methods if not name.startswith("_")}


@pytest.mark.parametrize(("blocking", "asynchronous"), [(Client, AsyncClient), (Job, AsyncJob)])
def test_both_clients_can_do_the_same(blocking: type, asynchronous: type) -> None:
    assert public(blocking) == public(asynchronous)


def test_calls_are_tried_again() -> None:
    answers = [refusal(429, "share-exceeded", "0"), httpx.Response(200, json=generation(2))]

    async def ask() -> tuple[int | None, ...]:
        async with AsyncClient("http://there", transport=httpx.MockTransport(lambda _: answers.pop(0))) as service:
            return (await service.generate("vae", n=2)).seeds

    assert asyncio.run(ask()) == (7, 8)


def test_a_service_that_is_not_there() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("Connection refused")

    async def ask() -> None:
        retries = Retries(attempts=2, first_pause_s=0)
        async with AsyncClient("http://there", transport=httpx.MockTransport(answer), retries=retries) as service:
            await service.health()

    with pytest.raises(Unreachable, match="Connection refused"):
        asyncio.run(ask())


class Told(httpx.AsyncByteStream):
    """Events that stop to come when they are left."""

    closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'event: started\ndata: {"id": "a"}\n\n'
        yield f"event: completed\ndata: {json.dumps(generation())}\n\n".encode()

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("whole", [True, False])
def test_events_are_heard_until_the_end_or_until_left(whole: bool) -> None:
    stream = Told()

    async def listen() -> list[type]:
        heard: list[type] = []
        transport = httpx.MockTransport(lambda _: httpx.Response(200, stream=stream))
        async with AsyncClient("http://there", transport=transport) as service:
            async with aclosing(service.stream("vae")) as events:
                async for event in events:
                    heard.append(type(event))
                    if not whole:
                        break
            assert stream.closed
        return heard

    assert asyncio.run(listen()) == ([Started, Completed] if whole else [Started])
