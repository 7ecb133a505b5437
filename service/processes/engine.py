"""The engine process: it loads the models that the supervisor names, and computes rows for API processes."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypeVar

import torch

from service import logs, nvml
from service.admission.drain import DrainRate
from service.background import log_failure
from service.engine.host import Host
from service.engine.model import Served
from service.errors import ServiceError
from service.link.channel import Listener
from service.link.server import LinkServer
from service.models.folders import Unusable
from service.models.registry import NOT_MEASURED, KnownCosts, pick_device, prepare, unusable
from service.process import freeze_objects, keep_memory, lower_priority, trim_memory
from service.processes.control import (
    PARTS,
    Costs,
    FromEngine,
    Load,
    Loaded,
    Ready,
    Refused,
    Seat,
    Serve,
    Serving,
    Stop,
    Unload,
    Version,
    decode_for_engine,
    send,
)
from service.settings import Settings
from service.supervision.heartbeat import Heartbeat

log = logging.getLogger(__name__)

#: Seconds between two updates of the gauges.
REFRESH_S = 1.0

Result = TypeVar("Result")


def run(connection: Connection, seat: Seat, settings: Settings, device: int) -> None:
    """Be an engine process until the supervisor says stop; on a machine with GPUs, on the one of that number."""
    logs.configure(settings.log_level, settings.log_format)
    keep_memory()
    engine = EngineProcess(connection, seat, settings, device)
    engine.run()


class EngineProcess:
    """One engine process. ``seat`` says which files it writes its heartbeat and its metrics to."""

    def __init__(self, connection: Connection, seat: Seat, settings: Settings, device: int) -> None:
        self._connection, self._settings = connection, settings
        self._sending = threading.Lock()
        self._metrics = seat.metrics()
        self._device = pick_device(settings.device)
        if self._device.type == "cuda":
            self._device = torch.device("cuda", device)
        pulse = Pulse(Heartbeat.open(seat.heartbeat), settings.load_timeout_s)
        self._server = LinkServer(lambda server: Host(self._device, settings, self._metrics, server.deliver, pulse))
        self._host = self._server.host
        self._host.serving = False
        self._loaders = ThreadPoolExecutor(self._host.threads, "load", lower_priority)

    def run(self) -> None:
        """Do what the supervisor says, until it says stop."""
        self._host.start(lambda deliver, *results: deliver(*results))
        threading.Thread(target=self._refresh_metrics, name="metrics", daemon=True).start()
        self._send(Ready(self._host.threads))
        while True:
            match decode_for_engine(self._connection.recv_bytes()):
                case Load(version=version):
                    self._loaders.submit(self._load, version)
                case Unload(number=number):
                    self._unload(number)
                case Serve(path=path):
                    self._serve(Path(path))
                case Stop():
                    break
        self._host.stop()
        logging.shutdown()

    def _refresh_metrics(self) -> None:
        """Keep the gauges current, which the API processes show."""
        while True:
            time.sleep(REFRESH_S)
            try:
                self._metrics.refresh()
            except Exception:
                log.exception("metrics not refreshed")

    def _load(self, version: Version) -> None:
        try:
            served = self._prepared(version)
        except Unusable as failure:
            log.error("model refused", extra={"reason": str(failure)}, exc_info=failure.__cause__)
            self._send(Refused(version.number, str(failure)))
            return
        self._send(Loaded(version.number, costs_of(served)))

    def _prepared(self, version: Version) -> Served:
        """The version, with its lanes. Raises Unusable."""
        directory = Path(version.directory)
        known = version.costs
        costs = KnownCosts(*(getattr(known, part) for part in KnownCosts._fields)) if known else NOT_MEASURED
        manifest, run_exclusive = version.parsed(), self._run_exclusive
        served = prepare(directory, self._device, self._settings, manifest, run_exclusive, costs)
        with unusable(directory):
            for number, part in enumerate((served, served.encoder, served.text)):
                if part is None:
                    continue
                metrics = self._metrics.for_model(part.model.name, ServiceError.codes())
                lane = self._host.new_lane(part, DrainRate(1000.0 * self._host.threads), metrics)
                self._server.add(version.lane + number, lane)
        return served

    def _unload(self, number: int) -> None:
        for part in range(PARTS):
            self._server.remove(PARTS * number + part)
        self._loaders.submit(trim_memory)
        if self._device.type == "cuda":
            self._host.run_exclusive(torch.cuda.empty_cache).add_done_callback(log_failure)

    def _serve(self, path: Path) -> None:
        listener = Listener(path)
        self._host.serving = True
        threading.Thread(target=self._server.serve, args=(listener,), name="link", daemon=True).start()
        if self._device.type == "cuda":
            properties = torch.cuda.get_device_properties(self._device)
            nvml.watch(f"GPU-{properties.uuid}", str(self._device.index), self._metrics)
        freeze_objects()
        self._send(Serving())

    def _run_exclusive(self, work: Callable[[], Result], /) -> Result:
        """Run ``work`` between two ticks and wait for it; a spare has no ticks, and must not slow those of others."""
        return self._host.run_exclusive(work).result() if self._host.serving else work()

    def _send(self, message: FromEngine) -> None:
        with self._sending:
            send(self._connection, message)


def costs_of(served: Served) -> Costs:
    """The measured costs of a model and of its parts."""
    parts = (served, served.encoder, served.text, served.decoder)
    return Costs(*(None if part is None else part.cost.measured for part in parts))  # type: ignore[arg-type]


class Pulse:
    """Has engine threads write what they do to a heartbeat file. Exclusive work, such as warm-up, may take longer."""

    def __init__(self, heartbeat: Heartbeat, exclusive_s: float) -> None:
        self._heartbeat, self._exclusive_s = heartbeat, exclusive_s
        self.end, self.idle = heartbeat.end, heartbeat.idle

    def begin(self, thread: int, rows: Sequence[int]) -> None:
        """The thread begins a tick with these rows, or exclusive work."""
        self._heartbeat.begin(thread, rows, 0.0 if rows else self._exclusive_s)
