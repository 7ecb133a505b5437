"""Tiny folders in an engine, and the rows of their requests as an API makes them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from service.background import call_soon
from service.contract.manifest import SolverName
from service.engine.deployment import Deployment
from service.engine.engine import Engine
from service.engine.host import Host
from service.engine.initial_latents import tensor_of
from service.engine.model import Model, Served
from service.engine.parts import no_prompt, prompt_inputs, text_row
from service.engine.pricing import Part
from service.engine.rows import Adapter, RowSpec, Size, encode_row
from service.metrics import Metrics
from service.models.conditions import Control, conditioned
from service.models.diffusers.rows import from_code, hidden, painted_in
from service.models.registry import prepare
from service.settings import Settings

CPU = torch.device("cpu")


class Studio:
    """An engine with one folder; each function makes what a request needs, and gives its row."""

    def __init__(self, engine: Engine, name: str, metrics: Metrics) -> None:
        self.engine, self.name, self.metrics = engine, name, metrics

    def sample(self, series: str, lane: str = "") -> float | None:
        """A series of the lane "", "/text", "/encode" or "/decode"."""
        return self.metrics.registry.get_sample_value(f"genserve_{series}", {"model": f"{self.name}{lane}"})

    @property
    def deployment(self) -> Deployment:
        return self.engine.deployments[self.name]

    @property
    def model(self) -> Model:
        return self.deployment.model

    async def embedded(self, prompt: str, adapter: Adapter | None = None) -> dict[str, Tensor]:
        assert self.model.tokenize is not None
        row = text_row(self.model.tokenize(prompt).ids, adapter)
        (numbers,) = await self.computed([row], Part(1, 1, reads=True))
        return prompt_inputs(self.model, numbers)

    async def encoded(self, image: Tensor) -> Any:
        (code,) = await self.computed([encode_row(image, 0)], Part(1, 1, encodes=True))
        return code

    async def computed(self, rows: Sequence[RowSpec], part: Part) -> Sequence[Any]:
        accepted = self.engine.admit(self.deployment, [part])
        return await accepted.submit(rows).future

    async def row(
        self,
        seed: int,
        prompt: str,
        negative: str | None,
        scale: float,
        *,
        solver: SolverName | None = None,
        steps: int = 5,
        strength: float = 1.0,
        control: Control | None = None,
        adapter: Adapter | None = None,
        size: Size | None = None,
    ) -> RowSpec:
        plan = self.model.plan(solver, steps, strength=strength)
        zeros = no_prompt(self.model) if negative is None else None
        away = zeros if zeros is not None else await self.embedded(negative or "", adapter)
        own = await self.embedded(prompt, adapter)
        controls = {} if control is None else {"controlnet": control}
        row = RowSpec(seed, 0, 1.0, plan, size=size)
        return conditioned(self.model, row, scale, own, away, controls=controls, adapter=adapter)

    async def repainted(self, row: RowSpec, image: Tensor, mask: Tensor, strength: float) -> RowSpec:
        code, masked = await self.encoded(image), await self.encoded(hidden(image, mask))
        return painted_in(self.model, row, code, masked, mask, strength)

    async def redrawn(self, row: RowSpec, image: Tensor) -> RowSpec:
        return from_code(row, await self.encoded(image))

    async def pictures(self, rows: Sequence[RowSpec]) -> np.ndarray[Any, Any]:
        return np.stack(await self.engine.submit(self.deployment, rows).future)

    async def latent(self, row: RowSpec) -> Tensor:
        (latent,) = await self.engine.submit(self.deployment, [row._replace(as_latent=True)]).future
        return tensor_of(latent)  # type: ignore[arg-type]


@asynccontextmanager
async def studio(
    folder: Path, change: Callable[[Served], Served] = lambda served: served, **changes: object
) -> AsyncIterator[tuple[Studio, Host]]:
    """An engine that serves ``folder``, after ``change``."""
    settings = Settings(max_bucket=16, device="cpu", engine_threads=1, max_queue_ms=1e9, client_share=1.0)
    settings = settings.model_copy(update={"max_request_ms": 1e9, **changes})
    metrics = Metrics()
    host = Host(CPU, settings, metrics)
    engine = Engine(host, settings, metrics)
    engine.deploy(engine.build(change(await asyncio.to_thread(prepare, folder, CPU, settings))))
    host.start(partial(call_soon, asyncio.get_running_loop()))
    try:
        yield Studio(engine, folder.name, metrics), host
    finally:
        await engine.drain(within_s=10.0)
