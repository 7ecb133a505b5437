"""An engine behind a Unix socket, and an engine of an API process that uses it, both in the process of the test."""

import asyncio
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from service.admission.drain import DrainRate
from service.engine.engine import Engine
from service.engine.host import Host
from service.engine.model import Served
from service.errors import ServiceError
from service.link.channel import Listener
from service.link.pool import EnginePool
from service.link.server import LinkServer
from service.metrics import Metrics
from service.settings import Settings
from tests.service.engine.conftest import CPU


class EngineProcess:
    """What an engine process does, in threads: it computes ``served`` for those who connect to ``path``."""

    def __init__(
        self, path: Path, served: Mapping[str, Served], settings: Settings, metrics: Metrics | None = None
    ) -> None:
        self.path, self.metrics = path, metrics or Metrics()
        self.server = LinkServer(lambda server: Host(CPU, settings, self.metrics, server.deliver))
        for number, each in enumerate(numbered(served)):
            lane_metrics = self.metrics.for_model(each.model.name, ServiceError.codes())
            drain = DrainRate(1000.0 * self.server.host.threads)
            self.server.add(number, self.server.host.new_lane(each, drain, lane_metrics))
        self.listener = Listener(path)
        self.server.host.start(lambda deliver, *results: deliver(*results))
        threading.Thread(target=self.server.serve, args=(self.listener,), daemon=True).start()

    def end(self) -> None:
        """Die: connections close, and nothing is computed any more."""
        self.listener.close()
        self.server.close()
        self.server.host.stop()


def numbered(served: Mapping[str, Served]) -> list[Served]:
    """The models, their encoders and text encoders, in the order of their lanes' numbers."""
    return [part for each in served.values() for part in (each, each.encoder, each.text) if part is not None]


def described(served: Mapping[str, Served]) -> dict[str, Served]:
    """``served`` as an API process knows it: with the numbers of the lanes."""
    numbers = {id(each): number for number, each in enumerate(numbered(served))}

    def with_lane(part: Served | None) -> Served | None:
        return None if part is None else replace(part, lane=numbers[id(part)])

    return {
        name: replace(each, lane=numbers[id(each)], encoder=with_lane(each.encoder), text=with_lane(each.text))
        for name, each in served.items()
    }


@asynccontextmanager
async def linked(
    tmp_path: Path, served: Mapping[str, Served], settings: Settings, engines: int = 1
) -> AsyncIterator[tuple[Engine, EnginePool, list[EngineProcess]]]:
    """An engine that computes with ``engines`` engine processes."""
    processes = [EngineProcess(tmp_path / f"{number}.sock", served, settings) for number in range(engines)]
    pool = EnginePool(engines, sum(each.server.host.threads for each in processes), slot=0)
    engine = Engine(pool, settings, Metrics())
    for each in described(served).values():
        engine.deploy(engine.build(each))
    for link, process in zip(pool.links, processes, strict=True):
        await link.attach(process.path, [])
    try:
        yield engine, pool, processes
    finally:
        await engine.drain(within_s=10.0)
        for process in processes:
            await asyncio.to_thread(process.end)
