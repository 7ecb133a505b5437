import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine.model import Model
from service.engine.tick import Batch, Step, Stepped, run, run_isolating

RAISES, NOT_FINITE = 101.0, -101.0


def decode_batch(first_numbers: list[float]) -> Batch:
    """One row for each number, which stands first in its latent."""
    rows = len(first_numbers)
    x = torch.linspace(-1, 1, rows * 4).reshape(rows, 4)
    x[:, 0] = torch.tensor(first_numbers)
    flags = np.ones(rows, dtype=np.bool_)
    label = torch.zeros(rows, dtype=torch.int64)
    return Batch(x, label, flags, None)


def test_a_picture_is_uint8_height_width_channel(one_shot: Model) -> None:
    stepped = run(one_shot, decode_batch([0.0, 1.0]))
    assert stepped.pictures.shape == (2, 8, 8, 1)
    assert stepped.pictures.dtype == np.uint8
    assert stepped.usable.all()


def test_only_ending_rows_are_decoded(one_shot: Model) -> None:
    batch = decode_batch([0.0, 1.0, 2.0])
    batch.ending[:] = [False, True, False]
    stepped = run(one_shot, batch)
    expected = run(one_shot, decode_batch([0.0, 1.0, 2.0])).pictures[1:2]
    np.testing.assert_array_equal(stepped.pictures, expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kinds=st.lists(st.sampled_from(["good", "raises", "not finite"]), min_size=1, max_size=9))
def test_bad_rows_fail_alone_wherever_they_are(one_shot: Model, kinds: list[str]) -> None:
    number = {"good": 0.5, "raises": RAISES, "not finite": NOT_FINITE}
    batch = decode_batch([number[kind] for kind in kinds])
    outcomes: list[str] = []
    pictures: dict[int, np.ndarray] = {}
    for rows, result in run_isolating(one_shot, batch):
        assert rows.start == len(outcomes)  # consecutive: no row is lost or told twice
        if isinstance(result, Stepped):
            outcomes += ["good" if usable else "not finite" for usable in result.usable]
            pictures |= {rows.start + index: picture for index, picture in enumerate(result.pictures)}
        else:
            assert rows.stop - rows.start == 1
            outcomes.append("raises")
    assert outcomes == kinds
    for row in (row for row, kind in enumerate(kinds) if kind == "good"):
        alone = run(one_shot, batch.part(slice(row, row + 1))).pictures[0]
        np.testing.assert_allclose(pictures[row].astype(int), alone.astype(int), atol=1)


@pytest.mark.parametrize("place", range(8))
def test_finding_one_culprit_costs_logarithmically_many_calls(one_shot: Model, place: int) -> None:
    calls = 0
    decode = one_shot.decode

    def counting(z: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return decode(z, label)

    numbers = [0.0] * 8
    numbers[place] = RAISES
    run_isolating(Model(one_shot.manifest, one_shot.device, counting, None), decode_batch(numbers))
    assert calls <= 1 + 2 * 3


def test_rows_of_different_plans_step_as_they_would_alone(diffusion: Model) -> None:
    plans = [diffusion.plan("ddim", 5), diffusion.plan("dpmpp_2m", 7), diffusion.plan("ddpm", 9)]
    rows = len(plans)
    coefficients = torch.stack([plan.table[1] for plan in plans]).float()
    generator = torch.Generator().manual_seed(1)
    x, previous, noise = (torch.randn(rows, 1, 8, 8, generator=generator) for _ in range(3))
    guided = np.array([False, True, False])
    scale = torch.tensor([1.0, 2.5, 1.0])
    step = Step(previous, scale, coefficients, noise, guided)
    batch = Batch(x, torch.tensor([0, 1, 3]), np.zeros(rows, np.bool_), step)
    together = run(diffusion, batch)
    for row in range(rows):
        alone = run(diffusion, batch.part(slice(row, row + 1)))
        torch.testing.assert_close(together.x[row], alone.x[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together.x_start[row], alone.x_start[0], rtol=0, atol=1e-6)
