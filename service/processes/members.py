"""The processes of the service as the supervisor sees them: what each is asked, and what it answers."""

import asyncio
import logging
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from errno import ENODEV
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Self

from service.models.folders import Unusable
from service.processes.control import (
    Applied,
    Catalog,
    Devices,
    Listening,
    Load,
    Loaded,
    Ready,
    Refused,
    Released,
    Seat,
    Serve,
    Serving,
    Stop,
    ToEngine,
    Unload,
    Version,
    decode_devices,
    decode_from_api,
    decode_from_engine,
    encode,
)
from service.settings import Settings
from service.supervision.child import Child
from service.supervision.heartbeat import Heartbeat

log = logging.getLogger(__name__)

#: The modules whose ``run`` the processes are.
ENGINE, API, DEVICES = "service.processes.engine", "service.processes.api", "service.processes.devices"

#: Silence after which an engine is replaced, whatever its forward passes take: a busy machine may pause a process.
LEAST_TIMEOUT_S = 5.0
#: And as a multiple of its longest forward pass so far.
LONGEST_PASSES = 10.0
#: Silence after which an API process is replaced.
API_TIMEOUT_S = 10.0
#: Seconds between two looks at the heartbeats.
WATCH_S = 0.1
#: A longer pause between two looks means that this process was paused, and perhaps the others with it.
PAUSED_S = 1.0
#: Seconds that a change of models waits for an API process that does not answer.
APPLY_S = 5.0


def run(connection: Connection, module: str, *arguments: Any) -> None:  # noqa: ANN401
    """The target of every ``Child``: ``run`` of a module, by name, because the supervisor does not import torch."""
    import_module(module).run(connection, *arguments)


class EngineDied(Exception):
    """The engine process ended while something was asked of it."""


async def find_devices(settings: Settings) -> Devices:
    """The devices for engines: all GPUs, or the CPU. Raises OSError when there is no such device.

    A process of its own looks: using CUDA takes memory that only its end gives back.
    """
    child = await Child.start("devices", run, DEVICES, settings)
    try:
        devices = decode_devices(await child.receive())
    except EOFError:
        raise OSError(ENODEV, "the devices cannot be counted; the log says why") from None
    finally:
        await child.wait()
    if devices.problem:
        raise OSError(ENODEV, devices.problem)
    return devices


class Member:
    """A running process with a heartbeat."""

    kind: ClassVar[str]

    def __init__(self, child: Child, seat: Seat, heartbeat: Heartbeat) -> None:
        self.child, self.seat, self.heartbeat = child, seat, heartbeat
        self._killed = False

    def timeout_s(self) -> float:
        """The silence after which it counts as hanging."""
        raise NotImplementedError

    def kill_if_hanging(self) -> bool:
        """Kill it if it has given no sign of life for too long; whether it did so now."""
        if self._killed or self.heartbeat.silent_s(time.monotonic()) <= self.timeout_s():
            return False
        self.kill()
        return True

    def kill(self) -> None:
        """End it at once."""
        self._killed = True
        self.child.kill()

    @property
    def usable(self) -> bool:
        """Whether it has neither ended nor been killed."""
        return self.child.running and not self._killed


async def kill_hanging(members: Callable[[], Iterable[Member]]) -> None:
    """Kill those of the present ``members`` that give no sign of life, for as long as this runs."""
    looked_at = time.monotonic()
    while True:
        await asyncio.sleep(WATCH_S)
        if time.monotonic() - looked_at > PAUSED_S:  # this process was paused: let them give a sign of life first
            await asyncio.sleep(PAUSED_S)
        looked_at = time.monotonic()
        for member in members():
            if member.kill_if_hanging():
                told = {f"{member.kind}_process": member.seat.name, "timeout_s": round(member.timeout_s(), 3)}
                log.error("process gives no sign of life; it is killed", extra=told)


class EngineMember(Member):
    """A running engine process."""

    kind = "engine"

    def __init__(self, child: Child, seat: Seat, heartbeat: Heartbeat, settings: Settings) -> None:
        """Use ``start``."""
        super().__init__(child, seat, heartbeat)
        self.threads = 0
        #: The numbers of the versions that it has loaded.
        self.loaded: set[int] = set()
        self._settings = settings
        loop = asyncio.get_running_loop()
        self._ready: asyncio.Future[int] = loop.create_future()
        self._serving: asyncio.Future[None] = loop.create_future()
        self._loading: dict[int, asyncio.Future[Loaded]] = {}
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, seat: Seat, settings: Settings, device: int) -> Self:
        """A process that can load models; ``device`` is the number of its GPU, if there are any. Raises EngineDied."""
        heartbeat = Heartbeat.open(seat.heartbeat)
        heartbeat.reset()
        child = await Child.start(seat.name, run, ENGINE, seat, settings, device)
        member = cls(child, seat, heartbeat, settings)
        try:
            member.threads = await member._ready
        except EngineDied:
            child.kill()  # it has closed its channel; the next process may write to its files once it has ended
            await child.wait()
            raise
        return member

    async def load(self, version: Version) -> Loaded:
        """Have it load a version. Raises Unusable when it cannot be served, EngineDied when the process ended.

        A version that takes too long cannot be stopped: the process is killed.
        """
        answer = self._loading[version.number] = asyncio.get_running_loop().create_future()
        self._tell(Load(version))
        try:
            async with asyncio.timeout(self._settings.load_timeout_s):
                loaded: Loaded = await answer
        except TimeoutError:
            self.kill()
            limit_s = self._settings.load_timeout_s
            raise Unusable(f"{version.directory}: it was not loaded, warmed and checked within {limit_s:g} s") from None
        finally:
            self._loading.pop(version.number, None)
        self.loaded.add(version.number)
        return loaded

    def unload(self, number: int) -> None:
        """Have it forget a version."""
        if number in self.loaded:
            self.loaded.discard(number)
            self._tell(Unload(number))

    async def serve(self, path: Path) -> None:
        """Have it take rows at ``path``. Raises EngineDied."""
        self._tell(Serve(str(path)))
        await self._serving

    def stop(self) -> None:
        """Ask it to end."""
        self._tell(Stop())

    def timeout_s(self) -> float:
        """The silence after which it counts as hanging."""
        if self._settings.engine_timeout_s is not None:
            return self._settings.engine_timeout_s
        return max(LEAST_TIMEOUT_S, LONGEST_PASSES * self.heartbeat.longest_s)

    def _tell(self, message: ToEngine) -> None:
        self.child.send(encode(message))

    async def _listen(self) -> None:
        try:
            while True:
                match decode_from_engine(await self.child.receive()):
                    case Ready(threads=threads):
                        self._ready.set_result(threads)
                    case Serving():
                        self._serving.set_result(None)
                    case Loaded() as loaded if loaded.number in self._loading:
                        self._loading[loaded.number].set_result(loaded)
                    case Refused(number=number, reason=reason) if number in self._loading:
                        self._loading[number].set_exception(Unusable(reason))
        except (EOFError, OSError):
            pass
        finally:
            self._end()

    def _end(self) -> None:
        pending: list[asyncio.Future[Any]] = [self._ready, self._serving, *self._loading.values()]
        for future in pending:
            if not future.done():
                future.set_exception(EngineDied(self.seat.name))
                future.exception()  # it is no error that nobody waits for it


class ApiMember(Member):
    """A running API process; ``released`` is called with the number of each version that it no longer uses."""

    kind = "api"

    def __init__(
        self, child: Child, seat: Seat, heartbeat: Heartbeat, released: Callable[["ApiMember", int], None]
    ) -> None:
        """Use ``start``."""
        super().__init__(child, seat, heartbeat)
        self.listening = asyncio.Event()
        self._applied: dict[int, asyncio.Event] = {}
        self._released = released
        self._reading = asyncio.create_task(self._read())

    @classmethod
    async def start(
        cls,
        seat: Seat,
        sockets: list[socket.socket],
        settings: Settings,
        released: Callable[["ApiMember", int], None],
    ) -> Self:
        """A process that answers at ``sockets`` once it has had a catalog."""
        heartbeat = Heartbeat.open(seat.heartbeat)
        heartbeat.reset()
        child = await Child.start(seat.name, run, API, seat, settings, sockets)
        return cls(child, seat, heartbeat, released)

    def timeout_s(self) -> float:
        """The silence after which it counts as hanging: its event loop gives a sign of life once a second."""
        return API_TIMEOUT_S

    async def tell(self, catalog: Catalog) -> None:
        """Send the catalog; returns once it is applied, or the process has ended or is too busy to do so soon."""
        applied = self._applied[catalog.number] = asyncio.Event()
        self.child.send(encode(catalog))
        with suppress(TimeoutError):
            async with asyncio.timeout(APPLY_S):
                await applied.wait()
        self._applied.pop(catalog.number, None)

    async def _read(self) -> None:
        try:
            while True:
                match decode_from_api(await self.child.receive()):
                    case Listening():
                        self.listening.set()
                    case Applied(number=number) if number in self._applied:
                        self._applied[number].set()
                    case Released(number=number):
                        self._released(self, number)
        except (EOFError, OSError):
            for applied in self._applied.values():
                applied.set()
