"""The lanes of a folder: its network, its encoders, its decoder, and pictures of other sizes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch

from service.engine.device import MOST_SIZES
from service.engine.parts import prompt_inputs, text_row
from service.engine.pricing import Part
from service.engine.rows import Adapter, Film, RowSpec
from service.errors import TooExpensive
from service.models.diffusers.rows import pixels
from service.models.registry import prepare
from service.settings import Settings
from tests.service.link.linked import linked
from tests.service.models.diffusers.conftest import CPU
from tests.service.models.diffusers.served import Studio, studio
from tests.service.models.diffusers.tiny import write_lora

FolderOf = Callable[[str], Path]


@pytest.fixture
def lora_folder(folder_of: FolderOf, tmp_path: Path) -> Path:
    folder = Path(copytree(folder_of("sd"), tmp_path / "sd"))
    write_lora(folder, "ink", seed=1, text=True)
    return folder


async def test_prompts_of_several_loras_are_encoded_in_one_call(lora_folder: Path) -> None:
    async with studio(lora_folder) as (own, _):
        model, prompts = own.model, ["a fox", "a fox", "Größe, 東京"]
        assert model.tokenize is not None
        assert model.encode_text is not None
        adapters = [None, Adapter("ink", 0.5), Adapter("ink")]
        ids = [model.tokenize(prompt).ids for prompt in prompts]
        rows = [text_row(each, adapter) for each, adapter in zip(ids, adapters, strict=True)]
        together = await own.computed(rows, Part(3, 1, reads=True))
        assert own.sample("tick_rows_sum", "/text") == 3
        for each, adapter, numbers in zip(ids, adapters, together, strict=True):
            expected = model.encode_text(each[None], [adapter])
            torch.testing.assert_close(prompt_inputs(model, numbers)["context"], expected["context"][0])
    assert not np.allclose(together[0], together[1])


async def test_pictures_are_decoded_in_a_lane_of_their_own(folder_of: FolderOf) -> None:
    async with studio(folder_of("sd")) as (own, _):
        rows = [await own.row(seed, "a fox", None, 7.5, steps=3 + seed) for seed in range(3)]
        together = await own.pictures(rows)
        assert own.sample("tick_rows_sum", "/decode") == 3
        decoded = [own.model.decode((await own.latent(row))[None], {}) for row in rows]
        assert own.sample("tick_rows_sum", "/decode") == 3  # a latent is not decoded
    levels = [((each[0] + 1) * 127.5).round().clamp(0, 255).permute(1, 2, 0).numpy() for each in decoded]
    assert np.abs(np.stack(levels) - together.astype(np.float32)).max() <= 1


async def test_a_latent_that_is_not_finite_fails_as_any_other(folder_of: FolderOf) -> None:
    async with studio(folder_of("sd")) as (own, _):
        row = await own.row(0, "a fox", None, 1.0, steps=1)
        with pytest.raises(Exception, match="not finite"):
            await own.pictures([row._replace(latent=torch.full((4, 8, 8), float("nan")))])


async def test_a_price_has_its_decoding_and_grows_with_the_size(folder_of: FolderOf) -> None:
    async with studio(folder_of("sd")) as (own, _):
        cost, gate = own.deployment.lane.cost, own.deployment.gate
        one = 10 * cost.row_ms() + cost.decode_ms
        assert cost.decode_ms > 0
        accepted = own.engine.admit(own.deployment, [Part(3, 10)])
        assert gate.accepted_ms == pytest.approx(3 * one, rel=1e-3)
        accepted.close()
        own.engine.admit(own.deployment, [Part(1, 10, pixels=pixels(own.model, (32, 24))), Part(2, 1, reads=True)])
        assert gate.accepted_ms == pytest.approx(3 * one, rel=1e-3)
    async with studio(folder_of("sd"), max_request_ms=1e-6) as (own, _):
        with pytest.raises(TooExpensive):
            own.engine.admit(own.deployment, [Part(2, 100)])


async def test_sizes_have_lanes_that_come_and_go(folder_of: FolderOf) -> None:
    async with studio(folder_of("sd")) as (own, _):
        sizes = [(8 * height, 8 * width) for height in (1, 2, 3) for width in (1, 2, 3, 4)]
        rows = [await own.row(1, "a fox", None, 3.0, steps=2, size=size) for size in sizes]
        made = [await own.pictures([row]) for row in rows]
        assert [each[0].shape[:2] for each in made] == sizes
        assert 0 < len(own.deployment.lane.sizes) <= MOST_SIZES  # type: ignore[attr-defined]
        own_size = await own.row(1, "a fox", None, 3.0, steps=2, size=(16, 16))
        same = await own.row(1, "a fox", None, 3.0, steps=2)
        np.testing.assert_array_equal(await own.pictures([own_size]), await own.pictures([same]))


async def test_rows_that_the_model_cannot_compute_are_refused_by_name(lora_folder: Path) -> None:
    async with studio(lora_folder) as (own, _):
        row = await own.row(0, "a fox", None, 7.5, adapter=Adapter("ink"))
        given = row.conditions
        assert given is not None
        bad = {
            "context: this input is missing": given._replace(inputs={}),
            "hint: the model has no such input": given._replace(inputs={**given.inputs, "hint": torch.zeros(3)}),
            "context: torch.float32 of": given._replace(negative={"context": torch.zeros(3)}),
            "lora 'chalk' is not one of this model's: ink": given._replace(adapter=Adapter("chalk")),
        }
        for reason, conditions in bad.items():
            with pytest.raises(ValueError, match=reason):
                await own.pictures([row._replace(conditions=conditions)])
        with pytest.raises(ValueError, match="context: this input is missing"):
            await own.pictures([row._replace(conditions=None)])


async def test_a_label_that_the_network_lacks_is_refused(folder_of: FolderOf) -> None:
    async with studio(folder_of("classes")) as (own, _):
        plan = own.model.plan(steps=2)
        for row in (RowSpec(0, 5, 1.0, plan), RowSpec(0, 1, 3.0, plan)):
            with pytest.raises(ValueError, match="label: classes has no class 5, only 0 to 4"):
                await own.pictures([row])
        assert (await own.pictures([RowSpec(0, 1, 3.0, plan, negative_label=4)])).shape == (1, 8, 8, 3)


async def test_a_cancelled_request_leaves_no_row_behind(folder_of: FolderOf) -> None:
    async with studio(folder_of("sd")) as (own, host):
        rows = [await own.row(seed, "a fox", None, 7.5, steps=200) for seed in range(3)]
        own.engine.submit(own.deployment, rows).cancel()
        while host.working:
            await asyncio.sleep(0)
        assert own.deployment.gate.accepted_ms == 0


async def test_previews_have_the_size_of_their_pictures(folder_of: FolderOf) -> None:
    async with studio(folder_of("sd")) as (own, _):
        row = await own.row(0, "a fox", None, 7.5, steps=4)
        job = own.engine.submit(own.deployment, [row._replace(film=Film(2, "both"))])
        seen: list[tuple[object, ...]] = []
        job.on_preview = lambda preview: seen.append((preview.step, preview.x_start.shape, preview.x_t.shape))
        await job.future
        small = row._replace(film=Film(4), size=(16, 8))
        job = own.engine.submit(own.deployment, [small])
        job.on_preview = lambda preview: seen.append((preview.step, preview.x_start.shape))
        await job.future
        assert own.sample("tick_rows_sum", "/decode") == 2  # those of the two final pictures
    assert seen == [(0, (16, 16, 3), (16, 16, 3)), (2, (16, 16, 3), (16, 16, 3)), (0, (16, 8, 3))]


def test_a_folder_of_pixels_shows_its_previews_exactly(folder_of: FolderOf) -> None:
    """Its decoder costs nothing."""
    assert prepare(folder_of("ddpm"), CPU, Settings(max_bucket=1, device="cpu")).model.preview is None


async def test_an_engine_process_gives_the_same_pictures(lora_folder: Path, tmp_path: Path) -> None:
    settings = Settings(max_bucket=8, device="cpu", engine_threads=1, max_queue_ms=1e9, client_share=1.0)
    served = await asyncio.to_thread(prepare, lora_folder, CPU, settings)
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1

    async def made(own: Studio) -> list[np.ndarray]:
        row = await own.row(3, "a fox", "rain", 7.5, solver="euler", adapter=Adapter("ink", 0.5))
        redrawn = await own.redrawn(await own.row(4, "a boat", None, 3.0, strength=0.6, solver="ddpm"), image)
        large = await own.row(3, "a fox", "rain", 7.5, steps=2, size=(24, 16))
        return [*await own.pictures([row, redrawn]), *await own.pictures([large])]

    async with studio(lora_folder) as (own, _):
        expected = await made(own)
    async with linked(tmp_path, {"sd": served}, settings) as (engine, _, _):
        found = await made(Studio(engine, "sd", own.metrics))
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
