from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine.model import Model
from service.engine.tick import X_START, X_T, Batch, Extras, Flags, Step, StepResult, run, run_isolating
from service.sampling.pixels import to_uint8
from service.sampling.step import Guidance, Inputs
from tests.service.engine.conftest import Watched

RAISES, NOT_FINITE = 101.0, -101.0
NO_CLASS = 3


def ignore_failure(batch: Batch, failure: Exception) -> None:
    pass


def guidance(guided: Flags, scale: float) -> Guidance:
    """Away from no class, by ``scale`` in each of the ``guided`` rows."""
    rows = torch.from_numpy(np.flatnonzero(guided))
    return Guidance(rows, torch.full((len(rows),), scale), {"label": torch.full_like(rows, NO_CLASS)})


def decode_batch(first_numbers: list[float]) -> Batch:
    """One row for each number, which stands first in its latent."""
    rows = len(first_numbers)
    x = torch.linspace(-1, 1, rows * 4).reshape(rows, 4)
    x[:, 0] = torch.tensor(first_numbers)
    flags = np.ones(rows, dtype=np.bool_)
    label = torch.zeros(rows, dtype=torch.int64)
    return Batch(x, {"label": label}, flags, None)


def test_a_picture_is_uint8_height_width_channel(one_shot: Model) -> None:
    result = run(one_shot, decode_batch([0.0, 1.0]))
    assert np.shape(result.results) == (2, 8, 8, 1)
    assert result.results[0].dtype == np.uint8
    assert result.usable.all()


def test_only_ending_rows_are_decoded(one_shot: Model) -> None:
    batch = decode_batch([0.0, 1.0, 2.0])
    batch.ending[:] = [False, True, False]
    result = run(one_shot, batch)
    expected = run(one_shot, decode_batch([0.0, 1.0, 2.0])).results[1:2]
    np.testing.assert_array_equal(result.results, expected)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(kinds=st.lists(st.sampled_from(["good", "raises", "not finite"]), min_size=1, max_size=9))
def test_bad_rows_fail_alone_wherever_they_are(one_shot: Model, kinds: list[str]) -> None:
    number = {"good": 0.5, "raises": RAISES, "not finite": NOT_FINITE}
    batch = decode_batch([number[kind] for kind in kinds])
    outcomes: list[str] = []
    pictures: dict[int, np.ndarray] = {}
    for rows, result in run_isolating(one_shot, batch, ignore_failure):
        assert rows.start == len(outcomes)  # consecutive: no row is lost or reported twice
        if isinstance(result, StepResult):
            outcomes += ["good" if usable else "not finite" for usable in result.usable]
            pictures |= {rows.start + index: picture for index, picture in enumerate(result.results)}
        else:
            assert rows.stop - rows.start == 1
            outcomes.append("raises")
    assert outcomes == kinds
    for row in (row for row, kind in enumerate(kinds) if kind == "good"):
        alone = run(one_shot, batch.part(slice(row, row + 1))).results[0]
        np.testing.assert_allclose(pictures[row].astype(int), alone.astype(int), atol=1)


@pytest.mark.parametrize("place", range(8))
def test_finding_one_culprit_costs_logarithmically_many_calls(one_shot: Model, place: int) -> None:
    calls = 0
    decode = one_shot.decode

    def counting(z: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        nonlocal calls
        calls += 1
        decoded: torch.Tensor = decode(z, inputs)
        return decoded

    numbers = [0.0] * 8
    numbers[place] = RAISES
    failures: list[tuple[int, str]] = []
    run_isolating(
        Model(one_shot.manifest, one_shot.device, counting, None),
        decode_batch(numbers),
        lambda batch, failure: failures.append((batch.forward_rows, type(failure).__name__)),
    )
    assert calls <= 1 + 2 * 3
    assert failures == [(rows, "Error") for rows in (8, 4, 2, 1)]  # every call that raised


def test_passes_that_do_not_raise_are_not_reported(one_shot: Model) -> None:
    failures: list[Batch] = []
    results = run_isolating(one_shot, decode_batch([NOT_FINITE, 0.0, 1.0]), lambda batch, _: failures.append(batch))
    assert [rows for rows, _ in results] == [slice(0, 3)]
    assert failures == []


@pytest.mark.parametrize("room", [1, 2, 3, 5, 9])
def test_a_batch_that_does_not_fit_is_run_in_parts_that_do(one_shot: Model, room: int) -> None:
    watched, batch = Watched(one_shot, room), decode_batch([0.1 * row for row in range(9)])
    failures: list[tuple[int, Exception]] = []
    results = run_isolating(watched.model, batch, lambda batch, failure: failures.append((len(batch), failure)))
    done = [result for _, result in results if isinstance(result, StepResult)]
    assert len(done) == len(results)
    pictures = np.concatenate([np.asarray(result.results) for result in done])
    np.testing.assert_allclose(pictures.astype(int), np.asarray(run(one_shot, batch).results).astype(int), atol=1)
    assert len(failures) == watched.refused
    assert all(rows > room and isinstance(failure, torch.OutOfMemoryError) for rows, failure in failures)
    # A traceback would keep the tensors of the failed pass while its halves want their memory.
    assert all(failure.__traceback__ is None for _, failure in failures)


def test_a_failure_is_reported_with_its_forward_pass_rows(diffusion: Model) -> None:
    """A guided row counts twice."""
    rows = 4
    guided = np.array([True, False, True, True])
    coefficients = diffusion.plan("ddim", 5).table[1].float().expand(rows, 5)
    step = Step(torch.zeros(rows, 1, 8, 8), coefficients, guided, guidance(guided, 2.0))
    inputs = {"label": torch.zeros(rows, dtype=torch.int64)}
    batch = Batch(torch.ones(rows, 1, 8, 8), inputs, np.zeros(rows, np.bool_), step)
    failures: list[tuple[int, int]] = []
    results = run_isolating(
        Watched(diffusion, room=3).model, batch, lambda batch, _: failures.append((len(batch), batch.forward_rows))
    )
    assert failures == [(4, 7), (2, 4)]
    assert [rows for rows, _ in results] == [slice(0, 2), slice(2, 3), slice(3, 4)]
    assert all(isinstance(result, StepResult) for _, result in results)


def test_rows_of_different_plans_step_as_they_would_alone(diffusion: Model) -> None:
    plans = [diffusion.plan("ddim", 5), diffusion.plan("dpmpp_2m", 7), diffusion.plan("ddpm", 9)]
    rows = len(plans)
    coefficients = torch.stack([plan.table[1] for plan in plans]).float()
    generator = torch.Generator().manual_seed(1)
    x, previous, noise = (torch.randn(rows, 1, 8, 8, generator=generator) for _ in range(3))
    guided = np.array([False, True, False])
    step = Step(previous, coefficients, guided, guidance(guided, 2.5), noise)
    batch = Batch(x, {"label": torch.tensor([0, 1, 3])}, np.zeros(rows, np.bool_), step)
    together = run(diffusion, batch)
    for row in range(rows):
        alone = run(diffusion, batch.part(slice(row, row + 1)))
        torch.testing.assert_close(together.x[row], alone.x[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(together.x_start[row], alone.x_start[0], rtol=0, atol=1e-6)


def test_previews_of_a_model_that_decodes_apart_are_not_decoded(diffusion: Model) -> None:
    """Its decoder takes as long as several steps, and the other rows of the tick would wait."""

    def no_decode(*_: object) -> torch.Tensor:
        raise AssertionError("decoded within the tick")

    def preview(latent: torch.Tensor, inputs: Inputs) -> torch.Tensor:
        assert not inputs
        return latent.clamp(-1, 1)

    rows = 3
    extras = Extras(np.ones(rows, np.bool_), np.array([X_START, 0, X_START | X_T]))
    coefficients = diffusion.plan("ddim", 5).table[1].float().expand(rows, 5)
    step = Step(torch.zeros(rows, 1, 8, 8), coefficients, np.zeros(rows, np.bool_), extras=extras)
    x = torch.linspace(-2, 2, rows * 64).reshape(rows, 1, 8, 8)
    inputs = {"label": torch.zeros(rows, dtype=torch.int64)}
    model = replace(diffusion, decode=no_decode, preview=preview)
    result = run(model, Batch(x, inputs, np.array([True, False, False]), step))
    assert [(each.row, each.x_start is None, each.x_t is None) for each in result.previews] == [
        (0, False, True),
        (2, False, False),
    ]
    shown = result.previews[1].x_t
    assert shown is not None
    np.testing.assert_array_equal(shown, to_uint8(x[2:].clamp(-1, 1))[0].numpy())
    assert np.shape(result.results[0]) == (1, 8, 8)  # a latent
