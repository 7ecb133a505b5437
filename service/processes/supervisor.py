"""The first process of the service: it starts the others, replaces those that end, and changes the models.

It computes nothing and answers no requests, so that nothing that a model or a client does can end it.
"""

import asyncio
import itertools
import logging
import signal
import socket
from collections.abc import Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from service.access.buckets import Buckets
from service.access.keys import KeyFile
from service.admission.shared import MOST_LANES, SharedLoad
from service.background import Background, log_failure
from service.contract.files import ContractError
from service.contract.manifest import Manifest
from service.contract.signature import Trust
from service.logs import SENTENCE
from service.metrics import Metrics
from service.models.folders import model_directories, read_any_manifest, trust_of
from service.models.manager import ModelManager
from service.process import name_process, usable_cores
from service.processes.control import Catalog, Seat, metrics_folder, rates, shared_load
from service.processes.fleet import ProcessFleet
from service.processes.members import ApiMember, find_devices, kill_hanging
from service.server.binding import bind_public, log_running
from service.server.serve import STOPPING, admin_server, handle_signals, reload_all, serving_admin
from service.settings import Settings
from service.supervision.child import prepare
from service.supervision.heartbeat import Heartbeat
from service.supervision.restarts import RestartBudget
from service.supervision.run_folder import RunFolder

log = logging.getLogger(__name__)

#: Imported once, by the process from which all others are forked.
PRELOAD = ["torch", "service.app", "service.processes.engine", "service.processes.api", "uvloop", "httptools"]
#: Cores for each API process, where their number is "auto".
CORES_PER_API_SERVER = 4
#: Seconds between two updates of this process's metrics.
REFRESH_S = 1.0
#: Seconds between two looks whether the API processes take requests.
LISTENING_POLL_S = 0.02
#: Seconds more than the drain that an API process may take to end.
END_S = 5.0


def run(settings: Settings, admin: socket.socket | None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Raises OSError when the port cannot be used, KeysRefused for an invalid file of API keys.
    """
    listeners = bind_public(settings, api_servers(settings))
    folder = RunFolder.create()
    try:
        name_process("genserve")
        prepare(PRELOAD)
        return asyncio.run(Supervisor(folder, listeners, settings).run(admin))
    finally:
        folder.remove()


def api_servers(settings: Settings) -> int:
    """How many API processes there are."""
    if settings.api_servers == "auto":
        return max(1, usable_cores() // CORES_PER_API_SERVER)
    return settings.api_servers


class Supervisor:
    """Keeps the processes of one service running."""

    def __init__(self, folder: RunFolder, listeners: list[list[socket.socket]], settings: Settings) -> None:
        settings = settings.model_copy(update={"api_servers": len(listeners)})
        if len(listeners) > 1 and settings.store == "memory":  # any of them must answer for a job of another
            settings = settings.model_copy(update={"store": f"sqlite:///{folder.file('jobs.db')}"})
        self._folder, self._listeners, self._settings = folder, listeners, settings
        self._apis: dict[int, ApiMember] = {}
        #: By API process, the versions that its requests may use.
        self._used: dict[ApiMember, set[int]] = {}
        self._budget = RestartBudget()
        self._catalogs = itertools.count(1)
        self._stopping = asyncio.Event()
        self._stop_signal: int = signal.SIGTERM
        self._reason: str | None = None
        metrics_folder(folder.path).mkdir(mode=0o700)
        self._metrics = Metrics.shared(metrics_folder(folder.path), "supervisor")
        for kind in ("engine", "api"):
            self._metrics.process_deaths.labels(kind)
        self._admitted = SharedLoad.create(shared_load(folder.path), len(listeners), MOST_LANES)
        Buckets.create(rates(folder.path))
        path = settings.api_keys_file
        self._key_file = None if path is None else KeyFile(path, Buckets(rates(folder.path)), self._tell_later)
        self._manager: ModelManager | None = None
        self._background = Background(lambda step: self._metrics.background_failures.labels(step).inc())
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, admin: socket.socket | None) -> int:
        """Serve until a signal, or until too many processes have died; returns the exit code."""
        handle_signals(self._stop, partial(reload_all, self._find_manager, self._find_keys))
        devices = await find_devices(self._settings)
        engines = self._settings.engines or devices.count
        if devices.gpu:  # its memory holds one copy of the models
            self._settings = self._settings.model_copy(update={"spare_engine": False})
        seats = self._engine_seats(engines)
        self._fleet = ProcessFleet(
            self._folder, seats, engines, self._settings, self._metrics, self._budget, self._tell_all, self._fail
        )
        self._background.repeat("metrics", self._metrics.refresh, REFRESH_S)
        for slot in range(len(self._listeners)):
            Heartbeat.create(self._api_seat(slot).heartbeat, 1, 0).close()
            await self._start_api(slot)
        watching = self._start(kill_hanging(lambda: self._used))
        starting = asyncio.create_task(self._start_engines())
        starting.add_done_callback(self._started)
        if admin is None:
            await self._stopping.wait()
        else:
            async with serving_admin(admin_server(self._find_manager, self._find_keys, self._settings), admin):
                await self._stopping.wait()
        starting.cancel()
        watching.cancel()  # a process that ends gives no more signs of life
        self._background.stop()
        await self._end()
        if self._reason is not None:
            log.critical("the service ends", extra={"reason": self._reason})
        return 0 if self._reason is None else 1

    def _engine_seats(self, engines: int) -> list[Seat]:
        seats = []
        threads = self._settings.engine_threads or usable_cores()
        for number in range(engines + 1):
            seat = Seat(f"engine-{number}", number, self._folder.path)
            Heartbeat.create(seat.heartbeat, threads, self._settings.table_rows).close()
            seats.append(seat)
        return seats

    async def _start_engines(self) -> None:
        weights = self._settings.weights_dir
        manifests, refused = await asyncio.to_thread(_manifests, weights, trust_of(self._settings))
        _log_loading(len(manifests), len(refused), weights)
        refused |= await self._fleet.start(manifests)
        for name, reason in refused.items():
            log.error("model refused", extra={"model": name, "reason": reason})
            self._metrics.model_ready.labels(name).set(0)
        self._manager = ModelManager(self._fleet, self._settings, self._metrics, refused, self._tell_later)
        self._tell_later()
        while not all(api.listening.is_set() for api in self._apis.values()):  # one that dies is replaced meanwhile
            await asyncio.sleep(LISTENING_POLL_S)
        log_running(self._listeners[0][0])
        self._fleet.start_spare()
        if self._settings.watch_s:
            self._background.repeat("watch", self._manager.follow, self._settings.watch_s)

    def _started(self, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is None:
            return
        log_failure(task)
        self._fail(f"the engines do not start: {task.exception()}")

    def _api_seat(self, slot: int) -> Seat:
        return Seat(f"api-{slot}", slot, self._folder.path)

    async def _start_api(self, slot: int) -> None:
        seat = self._api_seat(slot)
        api = await ApiMember.start(seat, self._listeners[slot], self._settings, self._released)
        self._apis[slot] = api
        self._used[api] = set()
        self._start(self._tell(api))
        self._start(self._replace_api(api))

    def _start(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(log_failure)
        return task

    async def _replace_api(self, api: ApiMember) -> None:
        await api.child.wait()
        del self._used[api]
        self._metrics.ended(api.seat.name)
        self._admitted.clear(api.seat.slot)
        if self._stopping.is_set():
            return
        self._metrics.process_deaths.labels("api").inc()
        log.error("API process ended", extra={"api_process": api.child.name, "reason": api.child.exit_reason()})
        self._unload_unused()
        if not self._budget.note():
            self._fail(f"{self._budget.most} processes died within {self._budget.within_s:g} s")
            return
        await asyncio.sleep(self._budget.delay_s())
        if not self._stopping.is_set():
            await self._start_api(api.seat.slot)

    def _tell_later(self) -> None:
        self._start(self._tell_all())

    async def _tell_all(self) -> None:
        """Have all API processes apply the present state."""
        await asyncio.gather(*(self._tell(api) for api in self._used))

    async def _tell(self, api: ApiMember) -> None:
        if self._manager is None:
            return
        versions = [*self._fleet.current.values()]
        self._used[api] |= {version.number for version in versions}
        refused = {**self._manager.refused}
        addresses, threads = self._fleet.addresses, self._fleet.threads
        keys = None if self._key_file is None else self._key_file.keys
        servers = len(self._listeners)
        await api.tell(Catalog(next(self._catalogs), versions, refused, addresses, threads, servers, keys))

    def _released(self, api: ApiMember, number: int) -> None:
        if api in self._used:
            self._used[api].discard(number)
            self._unload_unused()

    def _unload_unused(self) -> None:
        self._fleet.unload_unused(set().union(*self._used.values()))

    def _find_manager(self) -> ModelManager | None:
        return self._manager

    def _find_keys(self) -> KeyFile | None:
        return self._key_file

    def _fail(self, reason: str) -> None:
        self._reason = self._reason or reason
        self._stopping.set()

    def _stop(self, number: int) -> None:
        if self._stopping.is_set():
            for api in self._used:
                api.child.kill()
            self._fleet.kill()
        else:
            log.info("stopping", extra={SENTENCE: STOPPING})
        self._stop_signal = number
        self._stopping.set()

    async def _end(self) -> None:
        """End the API processes, which finish their requests, and then the engines."""
        for listener in itertools.chain(*self._listeners):  # else connections could still be made, and never answered
            listener.close()
        for api in self._used:
            if api.listening.is_set():
                api.child.terminate(self._stop_signal)
            else:  # it waits for the models and has no request
                api.child.kill()
        ended = [asyncio.create_task(api.child.wait()) for api in self._used]
        if ended:
            await asyncio.wait(ended, timeout=self._settings.drain_delay_s + self._settings.drain_s + END_S)
        for api in list(self._used):
            api.child.kill()
        await self._fleet.stop()


def _log_loading(models: int, refused: int, weights: Path) -> None:
    if models:
        about = f"loading {models} model{'' if models == 1 else 's'} from {weights}"
        log.info("loading", extra={"models": models, "weights": str(weights), SENTENCE: about})
    elif not refused:
        log.warning("no models: `genserve add FOLDER` adds one", extra={"weights": str(weights)})


def _manifests(weights: Path, trust: Trust) -> tuple[dict[Path, Manifest], dict[str, str]]:
    """The manifests of the models in ``weights`` by folder, and by name the reasons why others are not valid."""
    manifests: dict[Path, Manifest] = {}
    refused: dict[str, str] = {}
    for name, directory in model_directories(weights).items():
        try:
            manifests[directory] = read_any_manifest(directory, trust)
        except ContractError as failure:
            refused[name] = str(failure)
    return manifests, refused
