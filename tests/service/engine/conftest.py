import asyncio
import base64
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.admission.drain import DrainRate
from service.background import call_soon
from service.contract.manifest import Golden, read_manifest, write_manifest
from service.engine.cost import CostModel
from service.engine.delivery import deliver
from service.engine.engine import Engine
from service.engine.host import Host
from service.engine.lane import Lane
from service.engine.model import Model
from service.engine.results import Picture
from service.engine.rows import RowSpec
from service.engine.submission import Submission
from service.engine.table import LiveRow
from service.metrics import Metrics
from service.models.golden import draw
from service.models.registry import Registry, load_registry
from service.models.torchscript import load_model
from service.sampling.noise import image_seed
from service.sampling.solvers import Plan
from service.series.kinds import Counter, Gauge
from service.settings import Settings
from tests.service.artefacts import PoisonDecode, write_autoencoder, write_diffusion, write_one_shot

CPU = torch.device("cpu")

LaneOf = Callable[..., Lane]


@pytest.fixture
def registry(settings: Settings) -> Registry:
    write_autoencoder(settings.weights_dir, "coder")
    return load_registry(settings, CPU)


@pytest.fixture
def running(registry: Registry, settings: Settings) -> Callable[..., object]:
    @asynccontextmanager
    async def run(*, start: bool = True, **changes: object) -> AsyncIterator[tuple[Engine, Metrics]]:
        """An engine, drained at the end and started at once, or with ``start=False`` only then."""
        metrics = Metrics()
        engine, host = local_engine(registry, settings.model_copy(update=changes), metrics)
        begin = partial(host.start, partial(call_soon, asyncio.get_running_loop()))
        if start:
            begin()
        try:
            yield engine, metrics
        finally:
            if not start:
                begin()
            await engine.drain(within_s=10.0)

    return run


def local_engine(registry: Registry, settings: Settings, metrics: Metrics) -> tuple[Engine, Host]:
    """An engine that serves the models of ``registry`` in this process, and its host, which is not started."""
    host = Host(CPU, settings, metrics)
    engine = Engine(host, settings, metrics)
    for served in registry.served.values():
        engine.deploy(engine.build(served))
    return engine, host


@pytest.fixture
def one_shot(tmp_path: Path) -> Model:
    """A one-shot model; a latent beyond +-100 is poison."""
    write_one_shot(tmp_path, "vae", PoisonDecode())
    return load_model(tmp_path / "vae", CPU)


@pytest.fixture
def diffusion(tmp_path: Path) -> Model:
    write_diffusion(tmp_path, "ddpm")
    return load_model(tmp_path / "ddpm", CPU)


@pytest.fixture
def diffusion_with(tmp_path: Path) -> Callable[[nn.Module], Model]:
    """A diffusion with the test's own network."""

    def make(denoise: nn.Module) -> Model:
        write_diffusion(tmp_path, "own", denoise)
        return load_model(tmp_path / "own", CPU)

    return make


@pytest.fixture
def lane_of() -> LaneOf:
    """A lane whose forward passes cost one millisecond at any size, so that the best bucket is ``bucket``."""
    return new_lane


def new_lane(
    model: Model,
    rows: int = 8,
    bucket: int = 4,
    cost: CostModel | None = None,
    drain: DrainRate | None = None,
    lane: type[Lane] = Lane,
) -> Lane:
    """See ``lane_of``; ``cost`` replaces the constant cost, ``drain`` exposes the drain rate, ``lane`` is the class."""
    cost = cost or CostModel(dict.fromkeys(range(1, bucket + 1), 1.0))
    settings = Settings(weights_dir=Path(__file__).parent, table_rows=rows)
    return lane(model, cost, drain or DrainRate(1000.0), settings, Metrics().for_model(model.name, ["internal"]))


def request_rows(n: int, seed: int, label: int, guidance_scale: float, plan: Plan) -> list[RowSpec]:
    """The rows of a request for one class."""
    return [RowSpec(image_seed(seed, index), label, guidance_scale, plan) for index in range(n)]


def new_job(
    rows: list[RowSpec], expires_at: float = math.inf, client: int = 0
) -> tuple[Submission[Picture], list[LiveRow]]:
    """A job with these rows, which are not yet put anywhere; needs a running event loop."""
    job: Submission[Picture] = Submission(len(rows), expires_at=expires_at, client=client)
    return job, [LiveRow(job, index, row) for index, row in enumerate(rows)]


def put(lane: Lane, rows: list[RowSpec], expires_at: float = math.inf, client: int = 0) -> Submission[Picture]:
    """A job with these rows, queued."""
    job, live = new_job(rows, expires_at, client)
    lane.put(live)
    return job


def tick(lane: Lane, threads: int = 1, spent_ms: float = 1.0) -> int:
    """Claim, compute, complete and deliver one tick; returns the number of rows served."""
    slots = lane.claim(None, threads)
    if len(slots) == 0:
        return 0
    result = lane.compute(slots)
    lane.complete_tick(result, spent_ms)
    deliver(result.finished, result.previews, now=1.0)
    return len(slots)


def drain(lane: Lane) -> None:
    """Tick until the lane is empty."""
    for _ in range(10_000):
        if lane.is_empty:
            return
        tick(lane)
    raise AssertionError("the lane does not become empty")


async def pictures_of(lane: Lane, rows: list[RowSpec]) -> list[Picture]:
    """The pictures of a request that is queued and served."""
    job = put(lane, rows)
    drain(lane)
    return list(await job.future)


def sample(metric: Counter | Gauge) -> float:
    """The value of a series."""
    return metric.value


def submit(
    engine: Engine, model: str, rows: list[RowSpec], client: str = "", within_s: float = math.inf
) -> Submission[Picture]:
    """Submit a request now."""
    name, _, part = model.partition("/")
    deployment = engine.deployments[name]
    if part:  # "coder/encode" is its encoder
        assert deployment.encoder is not None
        deployment = deployment.encoder
    return engine.submit(deployment, rows, client, within_s)


def set_golden(folder: Path, change: int = 0) -> None:
    """Write the model's picture, with ``change`` xored into every level, to its manifest as the golden one."""
    golden = Golden(seed=3, class_label=1, steps=None, solver=None, picture="")
    levels = draw(load_model(folder, CPU), golden) ^ change
    golden = golden.model_copy(update={"picture": base64.b64encode(levels.tobytes()).decode()})
    write_manifest(folder, read_manifest(folder).model_copy(update={"golden": golden}))


class Watched:
    """``model`` with its forward passes recorded; one of more than ``room`` rows runs out of memory."""

    def __init__(self, model: Model, room: float = math.inf) -> None:
        self.room = room
        #: Rows of each forward pass: of the denoiser, or of the decoder if there is none.
        self.calls: list[int] = []
        part = model.denoise or model.decode

        def call(x: Tensor, *others: Tensor) -> Tensor:
            self.calls.append(len(x))
            if len(x) > self.room:
                raise torch.OutOfMemoryError("no room")
            return part(x, *others)

        self.model = replace(model, decode=call) if model.denoise is None else replace(model, denoise=call)

    @property
    def refused(self) -> int:
        """How many forward passes ran out of memory."""
        return sum(rows > self.room for rows in self.calls)
