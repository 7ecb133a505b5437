"""The composition root: load, warm, start, serve, drain. No request is handled here."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from service.api import error_handlers, generate, health, interpolate, models
from service.api.docs import describe
from service.api.endpoint import App
from service.api.state import State
from service.engine.engine import Engine
from service.engine.motion import Motion
from service.engine.registry import load_registry, pick_device
from service.errors import ServiceError
from service.metrics import Metrics
from service.process import settle
from service.settings import Settings

log = logging.getLogger(__name__)

#: Prometheus is told by the service itself; asking OpenTelemetry on every request whether it listens is not free.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}

DESCRIPTION = "Pictures from small generative models, batched over requests. Same seed, same picture."


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application. Models are loaded and warmed while it starts, before the first request is taken."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        state = await _start(settings)
        app.state.service = state
        settle()
        watching = asyncio.create_task(state.motion.watch(settings.watch_s)) if settings.watch_s else None
        yield
        if watching:
            watching.cancel()
        await state.engine.drain(settings.drain_s)

    app = App(title="genserve", version="0.1.0", description=DESCRIPTION, lifespan=lifespan, telemetry=NO_TELEMETRY)
    for pictures in (interpolate, generate):
        app.add_endpoint(pictures.ROUTE)
        describe(app, pictures.OPERATIONS)
    for part in (models, health):
        app.include_router(part.router)
    error_handlers.install(app)
    return app


async def _start(settings: Settings) -> State:
    device = pick_device(settings.device)
    registry = await asyncio.to_thread(load_registry, settings, device)
    metrics = Metrics()
    metrics.for_unknown_models(ServiceError.codes())
    engine = Engine(registry.served, device, settings, metrics)
    for name in registry.refused:
        metrics.model_ready.labels(name).set(0)
    for name, served in registry.served.items():
        cost = served.cost
        log.info(
            "model ready",
            extra={
                "model": name,
                "version": served.model.manifest.version,
                "bucket": cost.best_bucket,
                "row_ms": cost.row_ms(),
            },
        )
    engine.start()
    return State(settings, engine, Motion(engine, device, settings, metrics, registry.refused), metrics)
