"""The engine gives the pictures of diffusers' own pipelines, whatever shares its forward passes."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch

from service.contract.manifest import SolverName
from service.engine.cost import CostModel
from service.engine.initial_latents import from_picture
from service.engine.model import Served
from service.engine.rows import Adapter, RowSpec
from service.errors import ComputeFailed
from service.models.conditions import Control
from tests.service.models.diffusers.served import Studio, studio
from tests.service.models.diffusers.test_parity import NEGATIVE, PROMPT, levels_of, mask, picture, seeded
from tests.service.models.diffusers.tiny import diffusers_class, write_lora

FolderOf = Callable[[str], Path]
PipeOf = Callable[[str], Any]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

CLASSES: dict[SolverName, str] = {
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "dpmpp_2m": "DPMSolverMultistep",
    "euler": "EulerDiscrete",
    "euler_ancestral": "EulerAncestralDiscrete",
    "lcm": "LCM",
}


def require_same(ours: Any, images: Any) -> None:
    theirs = levels_of(images)
    assert theirs.std() > 1, "a flat picture would prove nothing"
    assert np.abs(ours.astype(np.float32) - theirs).max() <= 1


def with_solver(pipe: Any, solver: SolverName | None) -> Any:
    """The pipeline with the scheduler of ``solver``, None for its own."""
    if solver is None:
        return pipe
    made = diffusers_class(f"{CLASSES[solver]}Scheduler").from_config(pipe.scheduler.config)
    again = type(pipe)(**{**pipe.components, "scheduler": made})
    again.set_progress_bar_config(disable=True)
    return again


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
async def test_models_of_pixels(folder_of: FolderOf, pipe_of: PipeOf, name: str) -> None:
    async with studio(folder_of(name)) as (own, _):
        made = await own.pictures([RowSpec(3, 0, 1.0, own.model.plan(steps=5))])
    require_same(made, pipe_of(name)(generator=seeded(), num_inference_steps=5).images)


async def test_a_model_of_pixels_paints_around_what_is_known(folder_of: FolderOf) -> None:
    known = torch.rand(3, 8, 8, generator=seeded()) * 2 - 1
    left = torch.zeros(1, 8, 8)
    left[..., :4] = 1
    async with studio(folder_of("ddim")) as (own, _):
        rows = [RowSpec(seed, 0, 1.0, own.model.plan(steps=5)) for seed in (3, 4)]
        made = await own.pictures(from_picture(rows, known, left, 1.0))
        free = await own.pictures(rows)
    expected = ((known + 1) * 127.5).round().permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(made[0][:, 4:], expected[:, 4:])
    assert not np.array_equal(made[0][:, :4], free[0][:, :4])
    assert not np.array_equal(made[0][:, :4], made[1][:, :4])


@pytest.mark.parametrize("solver", [None, *CLASSES])
@pytest.mark.parametrize("name", ["sd", "sd_v", "sdxl"])
async def test_text_to_image(folder_of: FolderOf, pipe_of: PipeOf, name: str, solver: SolverName | None) -> None:
    async with studio(folder_of(name)) as (own, _):
        for negative in (None, NEGATIVE):
            made = await own.pictures([await own.row(3, PROMPT, negative, 7.5, solver=solver)])
            call = {"negative_prompt": negative, "guidance_scale": 7.5, "num_inference_steps": 5}
            require_same(made, with_solver(pipe_of(name), solver)(PROMPT, **call, generator=seeded()).images)


@pytest.mark.parametrize(("name", "steps", "scale"), [("turbo", 1, 0.0), ("lcm", 4, 8.5)])
async def test_few_step_models(folder_of: FolderOf, pipe_of: PipeOf, name: str, steps: int, scale: float) -> None:
    async with studio(folder_of(name)) as (own, _):
        made = await own.pictures([await own.row(3, PROMPT, None, scale, steps=steps)])
    images = pipe_of(name)(PROMPT, num_inference_steps=steps, guidance_scale=scale, generator=seeded()).images
    require_same(made, images)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("name", ["sd_img2img", "sdxl_img2img"])
async def test_image_to_image(folder_of: FolderOf, pipe_of: PipeOf, name: str, strength: float) -> None:
    async with studio(folder_of(name)) as (own, _):
        row = await own.row(3, PROMPT, NEGATIVE, 7.5, steps=6, strength=strength)
        made = await own.pictures([await own.redrawn(row, 2 * picture()[0] - 1)])
    call = {"image": picture(), "strength": strength, "num_inference_steps": 6, "guidance_scale": 7.5}
    require_same(made, pipe_of(name)(PROMPT, negative_prompt=NEGATIVE, **call, generator=seeded()).images)


@pytest.mark.parametrize("solver", [None, "euler_ancestral"])
@pytest.mark.parametrize("strength", [0.6, 1.0])
@pytest.mark.parametrize("name", ["inpaint", "inpaint9"])
async def test_inpainting(
    folder_of: FolderOf, pipe_of: PipeOf, name: str, strength: float, solver: SolverName | None
) -> None:
    async with studio(folder_of(name)) as (own, _):
        row = await own.row(3, PROMPT, NEGATIVE, 7.5, strength=strength, solver=solver)
        made = await own.pictures([await own.repainted(row, 2 * picture()[0] - 1, mask()[0], strength)])
    call = {"image": picture(), "mask_image": mask(), "strength": strength, "height": 16, "width": 16}
    pipe = with_solver(pipe_of(name), solver)
    images = pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, **call, generator=seeded()).images
    require_same(made, images)


@pytest.mark.parametrize("end", [1.0, 0.6])
async def test_control(folder_of: FolderOf, pipe_of: PipeOf, end: float) -> None:
    async with studio(folder_of("control")) as (own, _):
        control = Control(picture(4)[0], 0.8, 0.2, end)
        made = await own.pictures([await own.row(3, PROMPT, NEGATIVE, 7.5, control=control)])
    call = {"controlnet_conditioning_scale": 0.8, "control_guidance_start": 0.2, "control_guidance_end": end}
    pipe = pipe_of("control")
    images = pipe(
        PROMPT, image=picture(4), negative_prompt=NEGATIVE, num_inference_steps=5, **call, generator=seeded()
    ).images
    require_same(made, images)


async def test_another_size(folder_of: FolderOf, pipe_of: PipeOf) -> None:
    async with studio(folder_of("sd")) as (own, _):
        made = await own.pictures([await own.row(3, PROMPT, None, 7.5, steps=3, size=(24, 32))])
        with pytest.raises(ValueError, match="width 33"):
            await own.pictures([await own.row(3, PROMPT, None, 7.5, steps=3, size=(24, 33))])
    pipe = pipe_of("sd")
    require_same(made, pipe(PROMPT, height=24, width=32, num_inference_steps=3, generator=seeded()).images)


class Calls:
    """Notes the rows, the inputs and the LoRAs of each call of a network; a call with a row of ``poison`` raises."""

    def __init__(self, poison: float | None = None) -> None:
        self.rows: list[int] = []
        self.names: list[set[str]] = []
        self.adapters: list[int] = []
        self._poison = poison

    def watch(self, served: Served) -> Served:
        """``served`` with its calls noted, and forward passes of 16 rows."""
        network = served.model.denoise
        assert network is not None

        def denoise(x: torch.Tensor, t: torch.Tensor, inputs: Any, adapters: Any = ()) -> torch.Tensor:
            self.rows.append(len(x))
            self.names.append(set(inputs))
            self.adapters.append(sum(adapter is not None for adapter in adapters))
            if self._poison is not None and bool((inputs["context"][:, 0, 0] == self._poison).any()):
                raise RuntimeError("poisoned")
            made: torch.Tensor = network(x, t, inputs, adapters)
            return made

        cost = CostModel(dict.fromkeys(range(1, 17), 1.0))
        return replace(served, model=replace(served.model, denoise=denoise), cost=cost)


async def rows_of_all_kinds(own: Studio) -> list[RowSpec]:
    """Text to image, image to image, inpainting, with a ControlNet, and with two LoRAs; the last without guidance."""
    image = 2 * picture()[0] - 1
    begun = await own.row(5, "a fox", None, 4.0, steps=5, strength=0.6)
    control = Control(picture(4)[0], 0.8, 0.0, 0.6)
    return [
        await own.row(3, PROMPT, NEGATIVE, 7.5),
        await own.redrawn(begun, image),
        await own.repainted(await own.row(6, "a door", "rain", 6.0), image, mask()[0], 1.0),
        await own.row(7, "an owl", None, 5.0, control=control, solver="euler_ancestral"),
        await own.row(8, "a boat", None, 7.5, adapter=Adapter("ink", 0.7), solver="dpmpp_2m"),
        await own.row(8, "a boat", None, 1.0, adapter=Adapter("chalk")),
    ]


@pytest.fixture
def drawing_folder(folder_of: FolderOf, tmp_path: Path) -> Path:
    """A folder with a ControlNet and two LoRAs."""
    folder = Path(copytree(folder_of("control"), tmp_path / "control"))
    write_lora(folder, "ink", seed=1, text=True)
    write_lora(folder, "chalk", seed=2)
    return folder


async def test_all_kinds_of_rows_share_one_forward_pass(drawing_folder: Path) -> None:
    calls = Calls()
    async with studio(drawing_folder, calls.watch) as (own, _):
        rows = await rows_of_all_kinds(own)
        alone = [await own.pictures([row]) for row in rows]
        calls.rows.clear()
        calls.names.clear()
        calls.adapters.clear()
        together = await own.pictures(rows)
    # One call a step; five rows of six are guided, and the picture that is redrawn has three steps of the five.
    assert calls.rows == [11, 11, 11, 9, 9]
    assert [("hint" in names) for names in calls.names] == [True, True, True, False, False]
    assert calls.adapters == [3] * 5
    for row, apart in zip(together, alone, strict=True):
        assert np.abs(row.astype(int) - apart[0].astype(int)).max() <= 1
    assert len({row.tobytes() for row in together}) == len(rows)


async def test_a_row_that_fails_fails_alone(drawing_folder: Path) -> None:
    calls = Calls(poison=99.0)
    async with studio(drawing_folder, calls.watch) as (own, _):
        rows = await rows_of_all_kinds(own)
        expected = [await own.latent(row) for row in rows]
        bad = rows[0].conditions
        assert bad is not None
        poisoned = {**bad.inputs, "context": torch.full_like(bad.inputs["context"], 99.0)}
        spoilt = rows[0]._replace(conditions=bad._replace(inputs=poisoned))
        wanted = [own.latent(row) for row in [*rows[:2], spoilt, *rows[2:]]]
        results = await asyncio.gather(*wanted, return_exceptions=True)
    failed = results.pop(2)
    assert isinstance(failed, ComputeFailed)
    for found, latent in zip(results, expected, strict=True):
        torch.testing.assert_close(found, latent, rtol=1e-3, atol=1e-3)
