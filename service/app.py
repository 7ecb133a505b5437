"""The composition root: load, warm, start, serve, drain. No request is handled here."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version

import torch
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig

from service import nvml
from service.access.buckets import Buckets
from service.access.keys import KeyFile, KeyRing
from service.access.streams import Streams
from service.admission.lag import LoopLag
from service.admission.memory import Memory
from service.api.dialects import a1111, edits, hugging_face, open_inference, openai
from service.api.http import error_handlers
from service.api.http.access import Guard
from service.api.http.endpoint import App
from service.api.ops import docs, health, jobs, models, playground, stats
from service.api.request.resolve_cache import ResolvedCache
from service.api.response.job_codec import JobCodec
from service.api.response.job_runner import resume_jobs
from service.api.response.recipe import EDIT
from service.api.state import ModelStates, State
from service.api.tasks import again, encode, generate, inspect, interpolate, latent_map
from service.background import Background, call_soon
from service.engine.engine import Engine
from service.engine.host import Host
from service.engine.model import Served
from service.engine.ready import log_ready
from service.errors import ServiceError
from service.history import STEP_S, History
from service.logs import AccessLog
from service.metrics import Metrics
from service.models.folders import Unusable
from service.models.local_fleet import LocalFleet
from service.models.manager import ModelManager
from service.models.precision import check_precision
from service.models.registry import Registry, load_registry, pick_device, unusable
from service.process import freeze_objects
from service.settings import Settings
from service.store.opening import open_store

#: The service exports its own Prometheus metrics; asking OpenTelemetry on every request whether it listens is not free.
NO_TELEMETRY: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}

#: Seconds between two looks for jobs that another process left.
RESUME_S = 1.0

VERSION = version("genserve")

#: Makes the parts of a service with these settings, on its event loop.
Start = Callable[[Settings], Awaitable[State]]

DESCRIPTION = "Images from small generative models, batched across requests. The same seed gives the same image."

#: The tags of operations, in the order of the document.
TAGS = [
    {"name": "images", "description": "Generate, interpolate, encode: what the service is for."},
    {"name": "models", "description": "What is served, and which fields each model supports."},
    {"name": "jobs", "description": "Requests that are answered later."},
    {"name": "operations", "description": "Health, metrics and statistics."},
    {"name": "OpenAI", "description": "For clients of OpenAI's Images API."},
    {"name": "Open Inference Protocol", "description": "For clients of Triton and KServe."},
    {"name": "AUTOMATIC1111", "description": "For clients of its web UI: /sdapi/v1."},
    {"name": "Hugging Face", "description": "For InferenceClient, which also uses POST /generate/{model}."},
]


def create_app(settings: Settings, start: Start | None = None) -> FastAPI:
    """The ASGI application. While it starts, before the first request is taken, ``start`` makes its parts.

    By default they are those of ``start_inline``.
    """
    app = App(
        title="genserve",
        version=VERSION,
        description=DESCRIPTION,
        lifespan=lambda app: _lifespan(app, settings, start or start_inline),
        telemetry=NO_TELEMETRY,
        openapi_tags=TAGS,
        generate_unique_id_function=lambda route: route.name,
        # FastAPI's routes for its pages load scripts from other hosts; those of `docs` do not.
        docs_url=None,
        redoc_url=None,
    )
    # The busiest first: the router tries one route after another.
    app.add_routes([generate.generate_route(hugging_face.HuggingFaceRequest)])
    app.add_routes([each.ROUTE for each in (interpolate, encode, latent_map, inspect)])
    app.add_routes([*jobs.ROUTES, *openai.ROUTES, *open_inference.ROUTES, *hugging_face.ROUTES, stats.ROUTE])
    app.add_routes(a1111.ROUTES)
    for part in (models, health, docs, playground):
        app.include_router(part.router)
    error_handlers.install(app)
    return app


@asynccontextmanager
async def _lifespan(app: App, settings: Settings, start: Start) -> AsyncIterator[None]:
    """Requests are taken inside: the parts are made before and closed afterwards."""
    state = await start(settings)
    app.state.service = state
    app.guard = Guard(settings, state.keys)
    app.access_log = access_log = _access_log(settings, state.metrics)
    app.lag = LoopLag(settings.max_lag_ms / 1000, asyncio.get_running_loop().call_soon)
    background = state.background
    background.repeat("history", state.history.take, STEP_S)
    freeze_objects()
    if settings.store != "memory":
        builders = {**again.BUILDERS, EDIT: edits.edit_again}
        background.repeat("jobs", lambda: resume_jobs(state, builders), RESUME_S)
    if settings.watch_s and isinstance(state.models, ModelManager):
        background.repeat("watch", state.models.follow, settings.watch_s)
    try:
        yield
    finally:
        background.stop()
        # The sockets are closed: nobody can fetch what a job still makes. What answers waited for has had its time.
        # A store that processes share leaves open jobs to the next process.
        await state.store.close()
        await state.engine.drain(settings.drain_s)
        if access_log is not None:
            access_log.close()


def _access_log(settings: Settings, metrics: Metrics) -> AccessLog | None:
    if not settings.access_log or settings.log_level not in ("debug", "info"):
        return None
    return AccessLog(metrics.lost_log_lines.inc, everything=settings.log_level == "debug", format=settings.log_format)


async def start_inline(settings: Settings) -> State:
    """The parts of a service whose engine runs in this process: its models are loaded and warmed now."""
    device = pick_device(settings.device)
    check_precision(settings.precision, device)
    registry = await asyncio.to_thread(load_registry, settings, device)
    metrics = Metrics()
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        nvml.watch(f"GPU-{properties.uuid}", str(torch.cuda.current_device()), metrics)
    host = Host(device, settings, metrics)
    engine = Engine(host, settings, metrics)
    for served in list(registry.served.values()):
        _deploy(engine, served, registry, settings)
    for name in registry.refused:
        metrics.model_ready.labels(name).set(0)
    fleet = LocalFleet(engine, host, device, settings)
    manager = ModelManager(fleet, settings, metrics, registry.refused)
    host.start(partial(call_soon, asyncio.get_running_loop()))
    return await state_with(engine, manager, settings, metrics)


async def state_with(
    engine: Engine, models: ModelStates, settings: Settings, metrics: Metrics, keys: KeyRing | None = None
) -> State:
    """The parts of a service that answers with ``engine``, to requests with ``keys``.

    Without ``keys`` it reads those of the settings. Raises KeysRefused.
    """
    key_file = None
    if keys is None and settings.api_keys_file is not None:
        key_file = KeyFile(settings.api_keys_file, Buckets())
    keys = keys or (KeyRing() if key_file is None else key_file.ring)
    metrics.show_build(VERSION, torch.__version__, settings.commit)
    metrics.for_unknown_models(ServiceError.codes())
    store = await open_store(settings, JobCodec())
    metrics.count_jobs(lambda: store.jobs.open, lambda: store.jobs.ended)
    history = History(
        lambda: [(name, each.metrics) for name, each in engine.deployments.items()], metrics.refresh, time.monotonic
    )
    background = Background(lambda step: metrics.background_failures.labels(step).inc())
    resolved, memory = ResolvedCache(settings), Memory(settings.max_waiting_bytes)
    translators = (hugging_face.translate,)
    streams = Streams(settings.client_streams)
    parts = (store, history, resolved, memory, background, keys, streams, key_file, translators)
    return State(settings, engine, models, metrics, *parts)


def _deploy(engine: Engine, served: Served, registry: Registry, settings: Settings) -> None:
    """Have ``engine`` serve a model, or ``registry`` refuse it when its tables find no memory."""
    model = served.model
    try:
        with unusable(settings.weights_dir / model.name):
            deployment = engine.build(served)
            engine.deploy(deployment)
    except Unusable as failure:
        registry.refuse(model.name, failure)
        return
    log_ready(model.manifest, deployment.lane.cost, None if deployment.text is None else deployment.text.lane.cost)
