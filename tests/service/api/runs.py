"""Shared by tests of executions: requests with uploads, a blocked engine, decoding that waits."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from fastapi import FastAPI

from service.api.request.uploads import Fitted, read_picture
from service.api.state import State
from service.engine.host import Host
from tests.service.api.conftest import ask, base64_png, read_series, some_picture
from tests.service.api.linked_service import OwningPool

IMAGE = base64_png(some_picture())
ASYNC = {"Prefer": "respond-async"}
STREAM = {"Accept": "text/event-stream"}

#: Requests whose rows begin from uploads, one of each kind.
UPLOADS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "encoded": ("/encode/vae", {"image": [IMAGE, IMAGE]}),
    "inverted": ("/encode/ddpm", {"image": IMAGE, "steps": 5}),
    "varied": ("/generate/vae", {"image": IMAGE, "n": 2}),
    "redrawn": ("/generate/ldm", {"image": IMAGE, "mask": IMAGE, "seed": 1}),
    "led through": ("/interpolate", {"model": "ldm", "from": {"image": IMAGE}, "to": {"seed": 1}, "frames": 3}),
}
each_kind = pytest.mark.parametrize("kind", UPLOADS)


def state_of(app: FastAPI) -> State:
    state: State = app.state.service
    return state


def nothing_is_held(app: FastAPI) -> bool:
    """Whether no bytes and no device time are reserved."""
    state, served = state_of(app), [*state_of(app).engine.deployments.values()]
    gates = [each.gate for each in (*served, *(each.encoder for each in served)) if each is not None]
    return state.memory.reserved == 0 and not any(gate.accepted_ms for gate in gates)


def rows_wait(app: FastAPI) -> bool:
    """Whether rows of any model are queued."""
    registry = state_of(app).metrics.registry
    lanes = ("vae", "vae/encode", "ddpm", "ldm", "ldm/encode")
    return any(registry.get_sample_value("genserve_queued_rows", {"model": lane}) for lane in lanes)


async def until(condition: Any) -> None:
    """Wait until ``condition`` is true."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


def host_of(app: FastAPI) -> Host:
    """The engine's host, in the service or behind its socket."""
    backend = state_of(app).engine._backend
    if isinstance(backend, OwningPool):
        return backend.process.server.host
    assert isinstance(backend, Host)
    return backend


@contextmanager
def blocked(app: FastAPI) -> Iterator[None]:
    """The engine's one thread is blocked."""
    go_on, began = threading.Event(), threading.Event()

    def wait() -> None:
        began.set()
        go_on.wait(60)

    host_of(app).run_exclusive(wait)
    began.wait(60)
    try:
        yield
    finally:
        go_on.set()


class Decoding:
    """Decoding of uploads that waits until a test sets ``goes_on``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.goes_on = 0, asyncio.Event()
        for module in ("tasks.starts", "dialects.edits"):
            monkeypatch.setattr(f"service.api.{module}.read_picture", self._read)

    async def _read(self, field: str, data: bytes, *others: Any) -> Fitted:
        self.begun += 1
        await self.goes_on.wait()
        return await read_picture(field, data, *others)


async def status_of(app: FastAPI, id: str) -> dict[str, Any]:
    status: dict[str, Any] = json.loads((await ask(app, f"/jobs/{id}", method="GET")).body)
    return status


async def ended(app: FastAPI, id: str) -> dict[str, Any]:
    """The job once it has ended."""
    async with asyncio.timeout(20):
        while (status := await status_of(app, id))["status"] in ("queued", "running"):
            await asyncio.sleep(0.005)
    return status


@asynccontextmanager
async def computed_rows(app: FastAPI, rows: list[float]) -> AsyncIterator[None]:
    """Append the number of rows of forward passes."""

    async def count() -> float:
        samples = read_series((await ask(app, "/metrics", method="GET")).body.decode())
        return sum(number for (name, _), number in samples.items() if name == "genserve_tick_rows_sum")

    before = await count()
    yield
    rows.append(await count() - before)


async def every_job(app: FastAPI) -> list[Any]:
    return [*await state_of(app).jobs.of("127.0.0.1", 100)]
