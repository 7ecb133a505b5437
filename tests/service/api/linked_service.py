"""The service with its engine behind a Unix socket: the tests of the API pass with both kinds of engine.

They use the engine of the same process by default, and this one with GENSERVE_TEST_LINKED=1 (`make test-all`).
"""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from service.api.state import State
from service.app import state_with
from service.engine.engine import Engine
from service.link.pool import EnginePool
from service.metrics import Metrics
from service.models.registry import load_registry, pick_device
from service.processes.api import CatalogStates
from service.settings import Settings
from tests.service.link.linked import EngineProcess, described

#: Marks tests of what only the engine of the same process can do.
in_this_process = pytest.mark.skipif(
    "GENSERVE_TEST_LINKED" in os.environ, reason="of services whose engine is in the same process"
)


class OwningPool(EnginePool):
    """Ends its engine with the service."""

    process: EngineProcess

    def stop(self) -> None:
        """Close the connection and end the engine."""
        super().stop()
        self.process.end()


async def start_linked(settings: Settings) -> State:
    """As ``service.app.start_inline``, with an engine that is reached through a socket."""
    registry = await asyncio.to_thread(load_registry, settings, pick_device(settings.device))
    metrics = Metrics()
    process = EngineProcess(Path(tempfile.mkdtemp()) / "engine", registry.served, settings, metrics)
    pool = OwningPool(1, process.server.host.threads, slot=0)
    pool.process = process
    engine = Engine(pool, settings, metrics)
    for served in described(registry.served).values():
        engine.deploy(engine.build(served))
    await pool.links[0].attach(process.path, [])
    states = CatalogStates()
    states.refused, states.served = registry.refused, bool(registry.served)
    for name in registry.refused:
        metrics.model_ready.labels(name).set(0)
    return await state_with(engine, states, settings, metrics)
