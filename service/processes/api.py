"""The API process: it answers requests with what the engines compute, and serves the models of the catalog."""

import asyncio
import logging
import socket
import threading
import weakref
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from service import logs
from service.access.keys import KeyRing
from service.admission.shared import MOST_LANES
from service.api.state import State
from service.app import create_app, state_with
from service.background import call_soon, log_failure
from service.engine.engine import Engine
from service.engine.model import Model, Served, encoder_of
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
    Prices,
    Released,
    Seat,
    Version,
    cost_of,
    decode_for_api,
    send,
)
from service.server.serve import run_with
from service.settings import Settings
from service.supervision.heartbeat import Heartbeat

log = logging.getLogger(__name__)

#: Seconds between two signs of life of the event loop.
HEARTBEAT_S = 1.0


def run(connection: Connection, seat: Seat, settings: Settings, sockets: list[socket.socket]) -> None:
    """Answer what arrives at ``sockets`` until SIGTERM."""
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
        self._keys = KeyRing(None, seat.buckets())

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
        state = await state_with(self._engine, self.states, settings, self._metrics, self._keys)
        state.background.repeat("heartbeat", partial(Heartbeat.open(self._seat.heartbeat).idle, 0), HEARTBEAT_S)
        return state

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
        self._keys.replace(catalog.keys)
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
    """A version as requests see it: the engines have its functions. Raises ContractError for files that are gone."""
    assert version.costs is not None
    directory, manifest, costs = Path(version.directory), version.parsed(), version.costs
    model = described_model(directory, manifest)
    gate = version.gate if version.gate + PARTS <= MOST_LANES else None

    def served(part: Model | None, prices: Prices | None, number: int) -> Served | None:
        if part is None or prices is None:
            return None
        return Served(
            part, cost_of(prices, settings), lane=version.lane + number, gate=None if gate is None else gate + number
        )

    whole = served(model, costs.model, 0)
    assert whole is not None
    if costs.decoder is not None:
        whole.cost.decode_ms = cost_of(costs.decoder, settings).row_ms()
    encoder = served(encoder_of(model), costs.encoder, 1)
    return replace(whole, encoder=encoder, text=served(text_encoder_of(model), costs.text, 2))
