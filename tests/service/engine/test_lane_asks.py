"""What rows ask for beside a picture: masks, other negative labels, previews, latents."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from service.contract.manifest import NoiseSchedule, SolverName
from service.engine.initial_latents import started_from
from service.engine.lane import Lane
from service.engine.model import Model
from service.engine.results import Preview, Result
from service.engine.rows import Film, RowSpec, inversion_row
from service.errors import ComputeFailed
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.schedules import alpha_sigma
from service.sampling.step import Inpaint, Inputs
from tests.service.engine.conftest import LaneOf, Watched, drain, put

NO_CLASS = 3
SHAPE = (1, 8, 8)
PICTURE = torch.linspace(-1, 1, 64).reshape(SHAPE)
LEFT = torch.zeros(1, 1, 8)
LEFT[..., :4] = 1.0  # the mask: the left half is painted anew


def rows_of(n: int, model: Model, steps: int = 5, scale: float = 1.0, solver: SolverName = "ddim") -> list[RowSpec]:
    return [RowSpec(seed, seed % 3, scale, model.plan(solver, steps)) for seed in range(n)]


async def results_of(lane: Lane, rows: list[RowSpec]) -> tuple[Sequence[Result], list[Preview]]:
    previews: list[Preview] = []
    job = put(lane, rows)
    job.on_preview = previews.append
    drain(lane)
    return await job.future, previews


def looped(model: Model, row: RowSpec) -> Tensor:
    """The clean latent of a row by ``service.sampling.loop``."""
    assert model.denoise is not None
    noise = RowNoise(row.seed)
    drawn = noise.draw(SHAPE)
    inpaint = None if row.inpaint is None else Inpaint(*(part.expand(SHAPE)[None] for part in row.inpaint[:2]))
    return sample(
        model.denoise,
        (drawn if row.latent is None else row.latent)[None],
        [noise],
        {"label": torch.tensor([row.label])},
        row.plan,
        negative={"label": torch.tensor([NO_CLASS if row.negative_label is None else row.negative_label])},
        guidance_scale=row.guidance_scale,
        x0_range=(-1.0, 1.0),
        inpaint=inpaint,
    )[0]


def as_picture(latent: Tensor) -> np.ndarray:
    return to_uint8(latent[None])[0].numpy()


def every_kind(model: Model) -> list[RowSpec]:
    """Rows that ask for different things, and such as ask for nothing."""
    kinds: list[tuple[int, float, SolverName]] = [
        (4, 1.0, "ddpm"),
        (3, 2.0, "ddim"),
        (5, 1.0, "ddpm"),
        (6, 1.0, "dpmpp_2m"),
        (7, 1.0, "dpmpp_2m"),
        (2, 3.0, "ddim"),
        (8, 0.5, "ddpm"),
    ]
    plain, guided, painted, begun, shown, negative, all_of_it = (
        rows_of(1, model, steps, scale, solver)[0]._replace(seed=steps) for steps, scale, solver in kinds
    )
    soft = Inpaint(torch.full(SHAPE, 0.25), PICTURE)
    return [
        plain,
        guided,
        painted._replace(inpaint=Inpaint(LEFT, PICTURE)),
        started_from(begun._replace(plan=model.plan("dpmpp_2m", 6, strength=0.5)), PICTURE),
        shown._replace(film=Film(3, "both")),
        negative._replace(negative_label=1),
        started_from(all_of_it, PICTURE)._replace(inpaint=soft, film=Film(1), negative_label=2, as_latent=True),
        inversion_row(PICTURE, 1, model.inversion_plan(4)),
    ]


async def test_a_row_of_any_kind_is_what_the_loop_makes_alone_and_among_others(
    diffusion: Model, lane_of: LaneOf
) -> None:
    rows = every_kind(diffusion)
    lane = lane_of(diffusion, rows=6, bucket=5)
    together, _ = await results_of(lane, rows * 3)
    alone = [(await results_of(lane, [row]))[0][0] for row in rows]
    for index, (row, result) in enumerate(zip(rows * 3, together, strict=True)):
        expected = looped(diffusion, row)
        for found in (result, alone[index % len(rows)]):
            if row.as_latent:
                np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-4)
            else:
                np.testing.assert_allclose(found.astype(int), as_picture(expected).astype(int), atol=1)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m"])
async def test_what_a_mask_keeps_comes_out_exact(diffusion: Model, lane_of: LaneOf, solver: SolverName) -> None:
    kept, free = rows_of(1, diffusion, solver=solver)[0], rows_of(1, diffusion, solver=solver)[0]
    results, _ = await results_of(lane_of(diffusion), [kept._replace(inpaint=Inpaint(LEFT, PICTURE)), free])
    painted, whole = results
    np.testing.assert_array_equal(painted[:, 4:], as_picture(PICTURE)[:, 4:])
    assert (painted[:, :4] != whole[:, :4]).any()  # the known part influences the repainted one


async def test_a_slot_keeps_nothing_of_its_last_row(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(diffusion, rows=2, bucket=2)
    plain = rows_of(2, diffusion, scale=2.0)
    expected, _ = await results_of(lane_of(diffusion, rows=2, bucket=2), plain)
    hole = torch.full(SHAPE, float("nan"))
    asking = [
        row._replace(inpaint=Inpaint(LEFT, hole), film=Film(1), negative_label=1, as_latent=True) for row in plain
    ]
    job = put(lane, asking)
    drain(lane)
    assert isinstance(job.future.exception(), ComputeFailed)
    again, previews = await results_of(lane, plain)
    np.testing.assert_array_equal(again, expected)
    assert previews == []
    # Beside a row with a mask, too.
    beside, _ = await results_of(lane, [plain[0], plain[1]._replace(inpaint=Inpaint(LEFT, PICTURE))])
    np.testing.assert_array_equal(beside[0], expected[0])


@pytest.mark.parametrize("kind", ["x0", "xt", "both"])
async def test_a_film_shows_the_noise_and_what_is_predicted_from_it(
    diffusion: Model, lane_of: LaneOf, kind: str
) -> None:
    row = rows_of(1, diffusion, steps=6)[0]
    film = Film(2, kind)  # type: ignore[arg-type]
    (picture,), previews = await results_of(lane_of(diffusion), [row._replace(film=film)])
    (unfilmed,), _ = await results_of(lane_of(diffusion), [row])
    np.testing.assert_array_equal(picture, unfilmed)
    assert [(each.row, each.step, each.steps) for each in previews] == [(0, 0, 6), (0, 2, 6), (0, 4, 6)]
    np.testing.assert_allclose([each.t for each in previews], row.plan.table[::2, 0], rtol=1e-6)
    assert diffusion.denoise is not None
    x = RowNoise(row.seed).draw(SHAPE)
    for preview in previews:
        x_start = diffusion.denoise(x[None], torch.tensor([preview.t]), {"label": torch.tensor([row.label])})[0]
        for shown, latent, wanted in ((preview.x_start, x_start, "x0"), (preview.x_t, x, "xt")):
            if kind in (wanted, "both"):
                assert shown is not None
                np.testing.assert_allclose(shown.astype(int), as_picture(latent).astype(int), atol=1)
            else:
                assert shown is None
        for t, a, b, _, _ in row.plan.table[preview.step : preview.step + 2].float():
            x_start = diffusion.denoise(x[None], t[None], {"label": torch.tensor([row.label])})[0]
            x = a * x + b * x_start


async def test_the_last_preview_of_a_film_of_every_step_predicts_the_picture(diffusion: Model, lane_of: LaneOf) -> None:
    row = rows_of(1, diffusion, steps=4)[0]._replace(film=Film(1))
    (picture,), previews = await results_of(lane_of(diffusion), [row])
    assert [preview.step for preview in previews] == [0, 1, 2, 3]
    assert previews[-1].x_start is not None
    np.testing.assert_array_equal(previews[-1].x_start, picture)


async def test_previews_are_decoded_in_one_call_with_the_pictures_and_only_when_due(
    diffusion: Model, lane_of: LaneOf
) -> None:
    decoded: list[int] = []

    def decode(z: Tensor, inputs: Inputs) -> Tensor:
        decoded.append(len(z))
        result: Tensor = diffusion.decode(z, inputs)
        return result

    lane = lane_of(Model(diffusion.manifest, diffusion.device, decode, diffusion.denoise), rows=8, bucket=8)
    rows = [
        rows_of(1, diffusion, steps=4)[0]._replace(film=Film(3, "both")),
        rows_of(1, diffusion, steps=4)[0]._replace(film=Film(2)),
        rows_of(1, diffusion, steps=4)[0],
    ]
    await results_of(lane, rows)
    # Steps 0 to 3: both films; nobody; the second; the first again and the three pictures.
    assert decoded == [3, 1, 5]


async def test_a_filmed_row_that_raises_fails_alone(diffusion: Model, lane_of: LaneOf) -> None:
    lane = lane_of(Watched(diffusion, room=2).model, rows=4, bucket=4)
    rows = [row._replace(film=Film(2)) for row in rows_of(4, diffusion)]
    job = put(lane, [*rows, rows[0]._replace(latent=torch.full(SHAPE, float("nan")))])
    previews: list[Preview] = []
    job.on_preview = previews.append
    drain(lane)
    assert isinstance(job.future.exception(), ComputeFailed)
    results, _ = await results_of(lane, rows)
    assert len(results) == 4
    assert {preview.row for preview in previews} <= {0, 1, 2, 3}  # what is not finite is no preview


class Gaussian(torch.nn.Module):
    """The best denoiser of pixels of variance 1/4 around 0."""

    def __init__(self) -> None:
        super().__init__()
        alpha, sigma = alpha_sigma(NoiseSchedule(kind="linear", timesteps=1000))
        self.register_buffer("gain", (0.25 * alpha / (0.25 * alpha**2 + sigma**2)).float())

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return self.gain[(t * 1000).round().long() - 1][:, None, None, None] * x  # type: ignore[index]


async def test_inverting_and_sampling_give_the_picture_back(
    diffusion_with: Callable[[torch.nn.Module], Model], lane_of: LaneOf
) -> None:
    model = diffusion_with(Gaussian())
    lane, clean = lane_of(model), 0.8 * PICTURE
    apart = []
    for steps in (20, 80, 320):
        (latent,), _ = await results_of(lane, [inversion_row(clean, 0, model.inversion_plan(steps))])
        assert latent.dtype == np.float32
        assert latent.shape == SHAPE
        row = rows_of(1, model, steps=steps)[0]
        noise = torch.from_numpy(latent)
        (again,), _ = await results_of(lane, [row._replace(latent=noise, as_latent=True)])
        apart.append(float((torch.from_numpy(again) - clean).abs().max()))
        (picture,), _ = await results_of(lane, [row._replace(latent=noise)])
    assert apart[0] > 2 * apart[1] > 4 * apart[2]
    np.testing.assert_allclose(picture.astype(int), as_picture(clean).astype(int), atol=3)
