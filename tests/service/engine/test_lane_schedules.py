"""The lane under random schedules: whatever joins, leaves, fails or comes too late, each picture is what it would be
alone, nobody is left waiting, and no place is lost."""

import asyncio
import math
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.contract.manifest import SolverName
from service.engine.delivery import FinishedRow, PreviewedRow, deliver
from service.engine.initial_latents import started_from
from service.engine.lane import Lane
from service.engine.model import encoder_of
from service.engine.results import Preview, Result
from service.engine.rows import Film, RowSpec, encode_row
from service.engine.submission import Submission
from service.engine.table import LiveRow, Slots
from service.errors import ComputeFailed, DeadlineExceeded
from service.models.torchscript import load_model
from service.sampling.step import Inpaint
from tests.service.artefacts import PoisonDecode, write_autoencoder, write_diffusion
from tests.service.clock import Clock
from tests.service.engine.conftest import CPU, Watched, drain, new_lane, put, request_rows, sample

NO_CLASS = 3
PLACES = 5
NAMES = st.sampled_from(["ddpm", "vae", "vae/encode"])
PICTURE = torch.linspace(-1, 1, 64).reshape(1, 8, 8)
SEEDS = st.integers(0, 2**32 - 1)
#: For how long a sender waits; now and then for no time at all.
PATIENCE = st.sampled_from([math.inf, math.inf, math.inf, 2.0, 0.0])


def assert_close(found: Result | None, expected: Result | None) -> None:
    """Pictures within a grey level, numbers within their rounding."""
    if found is None or expected is None:
        assert found is expected
    elif found.dtype == np.uint8:
        np.testing.assert_allclose(found.astype(int), expected.astype(int), atol=1)
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@dataclass
class Sent:
    """A request, and what may become of it."""

    name: str
    rows: list[RowSpec]
    expires_at: float
    poisoned: bool
    ends: list[Submission[Result]] = field(default_factory=list)
    abandoned: bool = False
    previews: list[Preview] = field(default_factory=list)


class Schedules(RuleBasedStateMachine):
    """Three lanes with fewer places than there is work, and everything that happens around them in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name)
        write_diffusion(path, "ddpm")
        write_autoencoder(path, "vae", PoisonDecode())
        self.models = {name: load_model(path / name, CPU) for name in ("ddpm", "vae")}
        encoder = encoder_of(self.models["vae"])
        assert encoder is not None
        self.models[encoder.name] = encoder
        self.watched = {name: Watched(model) for name, model in self.models.items()}
        self.clock = Clock()
        self.patch = mock.patch("service.engine.lane.time", self.clock)
        self.patch.start()
        self.lanes = {name: new_lane(each.model, PLACES, 3) for name, each in self.watched.items()}
        self.jobs: dict[Submission[Result], Sent] = {}
        self.running: list[tuple[str, Slots]] = []
        self.mail: list[FinishedRow] = []
        self.films: list[PreviewedRow] = []
        self.sent_rows = dict.fromkeys(self.lanes, 0)
        self.ended_rows = dict.fromkeys(self.lanes, 0)
        self.loop = asyncio.new_event_loop()

    def teardown(self) -> None:
        try:
            self.drain()
            self.clock.now += 1e6
            self.give_up()
            self.a_finished_job_is_right()
            assert not self.jobs, "a job was left hanging"
            for name, lane in self.lanes.items():
                self.every_row_left_once_and_every_place_is_free(name, lane)
        finally:
            self.patch.stop()
            self.loop.close()
            self.folder.cleanup()

    def send(self, name: str, rows: list[RowSpec], patience: float, *, poisoned: bool = False) -> None:
        async def submit() -> None:
            sent = Sent(name, rows, self.clock.now + patience, poisoned)
            job: Submission[Result] = Submission(len(rows), sent.expires_at, sent.ends.append)
            job.on_preview = sent.previews.append
            self.jobs[job] = sent
            self.lanes[name].put([LiveRow(job, index, row) for index, row in enumerate(rows)])

        self.sent_rows[name] += len(rows)
        self.loop.run_until_complete(submit())

    @rule(
        n=st.integers(1, 7),
        seed=SEEDS,
        label=st.integers(0, 3),
        scale=st.sampled_from([1.0, 0.0, 2.0]),
        solver=st.sampled_from(["ddpm", "ddim", "dpmpp_2m"]),
        steps=st.integers(1, 6),
        patience=PATIENCE,
    )
    def send_diffusion(
        self, n: int, seed: int, label: int, scale: float, solver: SolverName, steps: int, patience: float
    ) -> None:
        self.send("ddpm", request_rows(n, seed, label, scale, self.models["ddpm"].plan(solver, steps)), patience)

    @rule(
        n=st.integers(1, 4),
        seed=SEEDS,
        scale=st.sampled_from([1.0, 2.0]),
        negative_label=st.sampled_from([None, 0, 2]),
        strength=st.sampled_from([0.3, 1.0]),
        solver=st.sampled_from(["ddpm", "dpmpp_2m"]),
        mask=st.sampled_from([None, 0.0, 0.5, 1.0]),
        film=st.sampled_from([None, Film(1, "both"), Film(2, "x0"), Film(3, "xt")]),
        as_latent=st.booleans(),
        patience=PATIENCE,
    )
    def send_what_asks_for_more(
        self,
        n: int,
        seed: int,
        scale: float,
        negative_label: int | None,
        strength: float,
        solver: SolverName,
        mask: float | None,
        film: Film | None,
        as_latent: bool,
        patience: float,
    ) -> None:
        plan = self.models["ddpm"].plan(solver, 5, strength=strength)
        inpaint = None if mask is None else Inpaint(torch.full((1, 1, 8), mask), PICTURE)
        rows = [
            started_from(row, PICTURE)._replace(
                inpaint=inpaint, negative_label=negative_label, film=film, as_latent=as_latent
            )
            for row in request_rows(n, seed, seed % 4, scale, plan)
        ]
        self.send("ddpm", rows, patience)

    @rule(n=st.integers(1, 4), label=st.integers(0, 3), patience=PATIENCE)
    def send_pictures_to_encode(self, n: int, label: int, patience: float) -> None:
        self.send("vae/encode", [encode_row(PICTURE / (1 + row), label) for row in range(n)], patience)

    @rule(n=st.integers(1, 7), seed=SEEDS, label=st.integers(0, 3), patience=PATIENCE)
    def send_one_shot(self, n: int, seed: int, label: int, patience: float) -> None:
        self.send("vae", request_rows(n, seed, label, 1.0, self.models["vae"].plan()), patience)

    @rule(number=st.sampled_from([101.0, -101.0, float("nan")]), n=st.integers(1, 3))
    def send_poison(self, number: float, n: int) -> None:
        latent = torch.tensor([number, 0.0, 0.0, 0.0])
        self.send("vae", [RowSpec(0, NO_CLASS, 1.0, self.models["vae"].plan(), latent)] * n, math.inf, poisoned=True)

    @rule(n=st.integers(1, 3), steps=st.integers(1, 4))
    def send_poisoned_diffusion(self, n: int, steps: int) -> None:
        row = RowSpec(0, NO_CLASS, 1.0, self.models["ddpm"].plan("ddim", steps), torch.full((1, 8, 8), float("nan")))
        self.send("ddpm", [row] * n, math.inf, poisoned=True)

    @rule(name=NAMES, threads=st.integers(1, 3))
    def claim(self, name: str, threads: int) -> None:
        """A thread takes a tick's rows, and computes them while other things happen."""
        slots = self.lanes[name].claim(None, threads)
        if len(slots):
            self.running.append((name, slots))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def compute(self, data: st.DataObject) -> None:
        name, slots = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.settle(name, slots, fails=False)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        """A fault of the engine's own."""
        name, slots = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.settle(name, slots, fails=True)

    @rule()
    def deliver(self) -> None:
        """The event loop comes round to what ticks have sent it."""
        deliver(self.mail, self.films, now=self.clock.now)
        self.mail.clear()
        self.films.clear()

    @rule(name=NAMES, threads=st.integers(1, 3))
    def tick(self, name: str, threads: int) -> None:
        slots = self.lanes[name].claim(None, threads)
        if len(slots):
            self.settle(name, slots, fails=False)
            self.deliver()

    @rule(name=NAMES, room=st.sampled_from([2, 3, math.inf]))
    def memory_changes(self, name: str, room: float) -> None:
        """Two rows, which one guided picture takes, fit always."""
        self.watched[name].room = room

    @rule()
    def time_passes(self) -> None:
        self.clock.now += 1.0

    @rule()
    def give_up(self) -> None:
        """Whoever waits for late pictures is told that they are late."""
        for job, sent in self.jobs.items():
            if sent.expires_at <= self.clock.now and not job.done:
                job.fail(DeadlineExceeded("late"))
                self.lanes[sent.name].sweep()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), waiting=st.booleans())
    def cancel(self, data: st.DataObject, waiting: bool) -> None:
        """A sender leaves; ``waiting`` in the middle of waiting, which cancels the future first."""
        job = data.draw(st.sampled_from(list(self.jobs)))
        if waiting:
            job.future.cancel()
        job.cancel()
        self.lanes[self.jobs[job].name].sweep()

    @rule()
    def drain(self) -> None:
        """Everything is served to its end."""
        for name, slots in self.running:
            self.settle(name, slots, fails=False)
        self.running.clear()
        for name, lane in self.lanes.items():
            for _ in range(1000):
                if lane.is_empty:
                    break
                self.tick(name, threads=1)
            assert lane.is_empty, "the lane does not come to an end"
            assert not lane.has_work
        self.deliver()
        assert all(job.done or sent.expires_at <= self.clock.now for job, sent in self.jobs.items())

    @invariant()
    def a_finished_job_is_right(self) -> None:
        for job, sent in self.jobs.items():
            if job.done:
                self.check(job, sent)
        self.jobs = {job: sent for job, sent in self.jobs.items() if not job.done}

    def settle(self, name: str, slots: Slots, *, fails: bool) -> None:
        lane = self.lanes[name]
        result = lane.fail_tick(slots) if fails else lane.compute(slots)
        lane.complete_tick(result, spent_ms=1.0)
        for row, _ in result.finished if fails else []:
            if row.job in self.jobs:
                self.jobs[row.job].abandoned = True
        self.ended_rows[name] += len(result.finished)
        self.mail += result.finished
        self.films += result.previews

    def check(self, job: Submission[Result], sent: Sent) -> None:
        assert sent.ends == [job]
        if job.future.cancelled():
            return
        if (failure := job.future.exception()) is not None:
            late = isinstance(failure, DeadlineExceeded) and sent.expires_at <= self.clock.now
            assert late or (isinstance(failure, ComputeFailed) and (sent.poisoned or sent.abandoned)), failure
            return
        assert not sent.poisoned
        assert not sent.abandoned
        for index, (row, result) in enumerate(zip(sent.rows, job.future.result(), strict=True)):
            expected, previews = self.alone(sent.name, row)
            assert_close(result, expected)
            of_row = [preview for preview in sent.previews if preview.row == index]
            steps = range(0, len(row.plan), row.film.every) if row.film else []
            assert [preview.step for preview in of_row] == list(steps)
            for found, other in zip(of_row, previews, strict=True):
                assert found[1:4] == other[1:4]
                for picture, alone in zip(found[4:], other[4:], strict=True):
                    assert_close(picture, alone)

    def alone(self, name: str, row: RowSpec) -> tuple[Result, list[Preview]]:
        async def scenario() -> tuple[Result, list[Preview]]:
            lane = new_lane(self.models[name], PLACES, 3)
            previews: list[Preview] = []
            job = put(lane, [row])
            job.on_preview = previews.append
            drain(lane)
            return (await job.future)[0], previews

        return self.loop.run_until_complete(scenario())

    def every_row_left_once_and_every_place_is_free(self, name: str, lane: Lane) -> None:
        dropped = sample(lane.metrics.dropped_queued) + sample(lane.metrics.dropped_running)
        assert self.sent_rows[name] == self.ended_rows[name] + dropped
        assert lane.queued == lane.live == 0
        self.send(name, request_rows(2 * PLACES, 0, 0, 1.0, self.models[name].plan()), math.inf)
        lane.claim(None, threads=PLACES)
        assert lane.live == PLACES


TestSchedules = Schedules.TestCase
TestSchedules.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
