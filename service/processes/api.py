"""The API process: it answers requests with what the engines compute, and serves the models of the catalog."""

import asyncio
import logging
import socket
import threading
import weakref
from collections.abc import Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from service import logs
from service.admission.shared import MOST_LANES
from service.api.state import State
from service.app import create_app, state_with
from service.background import call_soon, log_failure
from service.engine.engine import Engine
from service.engine.model import Served, encoder_of
from service.engine.parts import text_encoder_of
from service.link.pool import EnginePool
from service.models.registry import described_model
from service.process import keep_memory
from service.processes.control import (
    PARTS,
    Applied,
    Catalog,
    EngineAddress,
    FromApi,
    Listening,
    Released,
    Seat,
    Version,
    cost_of,
    decode_for_api,
    send,
)
from service.server.serve import run_with
from service.settings import Settings

log = logging.getLogger(__name__)


def run_api(connection: Connection, seat: Seat, sockets: list[socket.socket], settings: Settings) -> None:
    """The target of an API process's ``Child``: answer what arrives at ``sockets``."""
    logs.configure(settings.log_level, settings.log_format)
    keep_memory()
    process = ApiProcess(connection, seat, settings)
    app = create_app(settings, process.start)
    run_with(app, sockets, settings, on_listening=process.listening)


class ApiProcess:
    """One API process."""

    def __init__(self, connection: Connection, seat: Seat, settings: Settings) -> None:
        self._connection, self._seat, self._settings = connection, seat, settings
        self._metrics = seat.metrics()
        self._catalogs: asyncio.Queue[Catalog] = asyncio.Queue()
        self._versions: dict[str, int] = {}
        self._generations: dict[int, int] = {}
        self.states = CatalogStates()

    async def start(self, settings: Settings) -> State:
        """The parts of the service, once the first catalog has come."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="control", daemon=True).start()
        catalog = await self._catalogs.get()
        self._pool = EnginePool(len(catalog.engines), catalog.threads, self._seat.slot)
        shared = self._seat.load() if catalog.api_servers > 1 else None
        self._engine = Engine(self._pool, settings, self._metrics, shared)
        await self._apply(catalog)
        self._following = asyncio.create_task(self._follow())
        self._following.add_done_callback(log_failure)
        return state_with(self._engine, self.states, settings, self._metrics)

    def listening(self) -> None:
        """Tell the supervisor that requests are taken."""
        self._send(Listening())

    async def _follow(self) -> None:
        while True:
            catalog = await self._catalogs.get()
            await self._apply(catalog)
            self._send(Applied(catalog.number))

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            try:
                payload = self._connection.recv_bytes()
            except EOFError:  # the supervisor is gone; this process ends with it
                return
            call_soon(loop, self._catalogs.put_nowait, decode_for_api(payload))

    async def _apply(self, catalog: Catalog) -> None:
        """Match the deployments and the connections to ``catalog``."""
        self.states.refused = catalog.refused
        for version in catalog.versions:
            await self._deploy(version)
        for name in set(self._versions) - {version.parsed().name for version in catalog.versions}:
            del self._versions[name]
            self._engine.withdraw(name)
        self.states.served = bool(catalog.versions)
        for address in catalog.engines:
            if self._generations.get(address.number) != address.generation:
                await self._attach(address)

    async def _attach(self, address: EngineAddress) -> None:
        try:
            await self._pool.links[address.number].attach(Path(address.path), address.inside)
        except OSError as failure:  # it has died already: the next catalog names its successor
            log.warning("engine not reached", extra={"engine": address.number, "reason": str(failure)})
            return
        self._generations[address.number] = address.generation

    async def _deploy(self, version: Version) -> None:
        manifest = version.parsed()
        if self._versions.get(manifest.name) == version.number:
            return
        served = await asyncio.to_thread(described, version, self._settings)
        self._versions[manifest.name] = version.number
        loop = asyncio.get_running_loop()
        finalizer = weakref.finalize(served.model, call_soon, loop, partial(self._send, Released(version.number)))
        finalizer.atexit = False
        self._engine.deploy(self._engine.build(served))

    def _send(self, message: FromApi) -> None:
        send(self._connection, message)


class CatalogStates:
    """The models that the service cannot serve, by the last catalog."""

    def __init__(self) -> None:
        self.refused: Mapping[str, str] = {}
        self.served = False

    @property
    def ready(self) -> bool:
        """Whether a model is served and none is refused."""
        return self.served and not self.refused


def described(version: Version, settings: Settings) -> Served:
    """A version as requests see it: the engines have its functions."""
    gate = version.gate if version.gate + PARTS <= MOST_LANES else None
    model = described_model(Path(version.directory), version.parsed())
    cost = cost_of(version.prices, settings)
    if version.decoder_prices is not None:
        cost.decode_ms = cost_of(version.decoder_prices, settings).row_ms()
    parts = (encoder_of(model), version.encoder_prices), (text_encoder_of(model), version.text_prices)
    encoder, text = (
        Served(part, cost_of(prices, settings), lane=version.lane + place, gate=None if gate is None else gate + place)
        if part is not None and prices is not None
        else None
        for place, (part, prices) in enumerate(parts, start=1)
    )
    return Served(model, cost, encoder, version.lane, gate, text)
