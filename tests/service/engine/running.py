"""An engine with its manager, as the service runs them."""

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import torch
from torch import nn

from service.background import call_soon
from service.engine.model import Model
from service.metrics import Metrics
from service.models.local_fleet import LocalFleet
from service.models.manager import ModelManager
from service.models.registry import load_registry
from service.settings import Settings
from tests.service.artefacts import Decode, write_one_shot
from tests.service.engine.conftest import CPU, local_engine, request_rows


class Shifted(Decode):
    """As Decode, with shifted weights."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.weight.detach() + shift)


class Nan(Decode):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full_like(self.weight.detach(), float("nan")))


def export(weights: Path, name: str = "vae", shift: float = 0.5, decode: nn.Module | None = None) -> str:
    """Export another version of a model; returns its version."""
    return write_one_shot(weights, name, decode or Shifted(shift)).version


class Running:
    """An engine and its manager, with shortcuts for tests."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.metrics = settings, Metrics()
        registry = load_registry(settings, CPU)
        self.engine, self.host = local_engine(registry, settings, self.metrics)
        fleet = LocalFleet(self.engine, self.host, CPU, settings)
        self.manager = ModelManager(fleet, settings, self.metrics, registry.refused)

    def version(self, model: str = "vae") -> str:
        return self.engine.deployments[model].model.manifest.version

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"genserve_{name}", labels)

    def running_version(self, model: str) -> str:
        """The version in the metrics."""
        (family,) = self.metrics.model_info.collect()
        version: str
        (version,) = (each.labels["version"] for each in family.samples if each.labels["model"] == model)
        return version

    async def picture(self, model: str = "vae") -> bytes:
        deployment = self.engine.deployments[model]
        job = self.engine.submit(deployment, request_rows(1, 0, 0, 1.0, deployment.model.plan()))
        return (await job.future)[0].tobytes()


async def vanished(*gone: "weakref.ref[Model]") -> None:
    """Wait until they are collected; an engine thread may hold the last row for a moment."""
    async with asyncio.timeout(10):
        while any(each() is not None for each in gone):
            await asyncio.sleep(0.001)


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    started = Running(settings)
    started.host.start(partial(call_soon, asyncio.get_running_loop()))
    try:
        yield started
    finally:
        await started.engine.drain(within_s=10.0)
