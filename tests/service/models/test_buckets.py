"""Calls at fixed sizes: what is computed is the same, and with one size it is the same to the bit."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from service.engine.engine import Engine
from service.engine.initial_latents import started_from
from service.engine.inputs import LABEL
from service.engine.model import Model
from service.engine.rows import Film, RowSpec, inversion_row
from service.metrics import Metrics
from service.models.buckets import GraphedPart, PaddedPart, at_fixed_sizes
from service.models.folders import model_directories
from service.models.registry import load_registry
from service.models.torchscript import load_model
from service.sampling.step import Inpaint, Inputs
from service.settings import Settings
from tests.service.engine.conftest import CPU, local_engine, request_rows

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
SHIPPED = Path(__file__).parents[3] / "weights"


class Recorder:
    """A part of a model that notes the numbers of rows it is called with."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, x: Tensor, inputs: Inputs) -> Tensor:
        label = inputs["label"]
        self.sizes.append(len(x))
        assert len(label) == len(x)
        return 2 * x + label[:, None]


@given(rows=st.integers(1, 40), sizes=st.sets(st.integers(1, 16), min_size=1))
def test_any_batch_is_computed_at_the_sizes_and_gives_its_own_rows(rows: int, sizes: set[int]) -> None:
    part = Recorder()
    x, label = torch.arange(float(rows))[:, None], torch.arange(rows)
    torch.testing.assert_close(PaddedPart(part, list(sizes))(x, {"label": label}), 3 * x)
    assert set(part.sizes) <= sizes
    assert sum(part.sizes) - rows < max(sizes)


def test_the_smallest_size_that_fits_is_taken() -> None:
    part = Recorder()
    padded = PaddedPart(part, [8, 2, 4])
    for rows in (1, 2, 3, 5, 8, 9):
        padded(torch.zeros(rows, 1), {"label": torch.zeros(rows)})
    assert part.sizes == [2, 2, 4, 8, 8, 8, 2]


@pytest.mark.parametrize(("rows", "padding"), [(1, 1), (2, 0), (3, 5), (8, 0), (9, 1), (11, 5), (16, 0)])
def test_padding_is_counted(one_shot: Model, rows: int, padding: int) -> None:
    assert one_shot.padding(rows) == 0
    assert at_fixed_sizes(one_shot, [8, 2]).padding(rows) == padding


def kinds_of_rows(model: Model) -> list[RowSpec]:
    """A row of each solver, guided and not; begun in the middle, with a mask, filmed, ended as a latent."""
    if model.denoise is None:
        return [request_rows(1, seed, seed % 3, 1.0, model.plan())[0] for seed in range(4)]
    asks = [("ddpm", 7, 1.0), ("ddim", 3, 3.0), ("dpmpp_2m", 5, 1.0), ("ddpm", 4, 2.0)]
    rows = [
        request_rows(1, seed, seed % 3, scale, model.plan(solver, steps))[0]  # type: ignore[arg-type]
        for seed, (solver, steps, scale) in enumerate(asks)
    ]
    picture = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
    started = started_from(rows[0]._replace(plan=model.plan("ddpm", 6, strength=0.5)), picture)
    inpaint = Inpaint(torch.tensor([0.0, 0.3, 1.0, 0.0, 1.0, 1.0, 0.5, 0.0]).expand(1, 8, 8), picture)
    return [
        *rows,
        started,
        rows[0]._replace(inpaint=inpaint),
        rows[1]._replace(negative_label=0, film=Film(2, "both")),
        rows[2]._replace(as_latent=True),
        inversion_row(picture, 1, model.inversion_plan(4)),
    ]


async def alone_and_together(engine: Engine, name: str, order: list[int]) -> None:
    """Each row's picture has the same bytes alone as among rows in any order."""
    rows = kinds_of_rows(engine.deployments[name].model)
    alone = [(await engine.submit(engine.deployments[name], [row]).future)[0] for row in rows]
    jobs = [(index % len(rows), engine.submit(engine.deployments[name], [rows[index % len(rows)]])) for index in order]
    for index, job in jobs:
        np.testing.assert_array_equal((await job.future)[0], alone[index])


@pytest.mark.parametrize("threads", [1, 3])
async def test_deterministic_pictures_are_the_same_to_the_bit(weights: Path, threads: int) -> None:
    settings = Settings(weights_dir=weights, device="cpu", deterministic=True, max_bucket=8, engine_threads=threads)

    device = torch.device("cpu")
    engine, host = local_engine(load_registry(settings, device), settings, Metrics())
    host.start(asyncio.get_running_loop().call_soon_threadsafe)
    generator = torch.Generator().manual_seed(0)
    for name in ("ddpm", "vae"):
        for _ in range(5):
            await alone_and_together(engine, name, torch.randperm(24, generator=generator).tolist())
    await engine.drain(within_s=10.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(model_directories(SHIPPED)))
def test_shipped_models_are_deterministic_to_the_bit(name: str) -> None:
    """The real networks: their convolutions must not depend on a row's place in the call."""
    model = at_fixed_sizes(load_model(SHIPPED / name, CPU), [8])
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, *model.manifest.latent_shape, generator=generator)
    t, order = torch.linspace(0.1, 0.9, 8), torch.randperm(8, generator=generator)
    inputs = {name: torch.rand(8, *each.shape, generator=generator) for name, each in model.inputs.items()}
    if LABEL in inputs:
        inputs[LABEL] = torch.arange(8) % model.manifest.null_label
    with torch.inference_mode():
        for rows in (order, order[:3], order[5:6]):
            some = {name: each[rows] for name, each in inputs.items()}
            torch.testing.assert_close(model.decode(x[rows], some), model.decode(x, inputs)[rows], rtol=0, atol=0)
            if model.denoise is not None:
                together = model.denoise(x, t, inputs)[rows]
                torch.testing.assert_close(model.denoise(x[rows], t[rows], some), together, rtol=0, atol=0)


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("name", ["vae", "gan", "ddpm"])
def test_a_captured_graph_gives_what_the_network_gives(name: str) -> None:
    model = load_model(SHIPPED / name, torch.device("cuda"))
    graphed = at_fixed_sizes(model, [1, 4, 16])
    assert isinstance(graphed.decode, GraphedPart)
    with torch.inference_mode():
        for rows in (1, 3, 4, 16, 21, 2):
            x = torch.randn(rows, *model.manifest.latent_shape, device="cuda")
            inputs = {"label": torch.arange(rows, device="cuda") % model.manifest.null_label}
            torch.testing.assert_close(graphed.decode(x, inputs), model.decode(x, inputs), rtol=1e-3, atol=1e-3)
            if model.denoise is not None and graphed.denoise is not None:
                t = torch.full((rows,), 0.5, device="cuda")
                found, expected = graphed.denoise(x, t, inputs), model.denoise(x, t, inputs)
                torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.gpu
@cuda
def test_a_replay_leaves_what_an_earlier_one_gave() -> None:
    part = GraphedPart(lambda x: x * 2, [4])
    with torch.inference_mode():
        first = part(torch.ones(4, 3, device="cuda"))
        part(torch.zeros(4, 3, device="cuda"))
    torch.testing.assert_close(first, torch.full((4, 3), 2.0, device="cuda"))


@pytest.mark.gpu
@cuda
@pytest.mark.parametrize("name", ["vae", "gan", "ddpm"])
def test_a_gpu_serves_the_pictures_that_a_cpu_serves(name: str) -> None:
    async def pictures(device: str) -> list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        settings = Settings(weights_dir=SHIPPED, device=device, max_bucket=8)
        engine, host = local_engine(load_registry(settings, torch.device(device)), settings, Metrics())
        host.start(asyncio.get_running_loop().call_soon_threadsafe)
        rows = request_rows(5, 3, 1, 1.0, engine.deployments[name].model.plan())
        made = await engine.submit(engine.deployments[name], rows).future
        await engine.drain(within_s=10.0)
        return list(made)

    for mine, theirs in zip(asyncio.run(pictures("cuda")), asyncio.run(pictures("cpu")), strict=True):
        # Other kernels and TF32: close as pictures, not as bits.
        assert np.abs(mine.astype(int) - theirs.astype(int)).mean() < 4
