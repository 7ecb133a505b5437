"""The lane under random schedules: whatever joins, leaves, fails or comes too late, each picture is what it would be
alone, nobody is left waiting, and no place is lost."""

import asyncio
import math
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal
from unittest import mock

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.admission.job import Job
from service.contract.manifest import SolverName
from service.engine.lane import Ended, Lane
from service.engine.model import load_model
from service.engine.rows import RowSpec
from service.engine.table import LiveRow, Picture, Slots
from service.errors import ComputeFailed, DeadlineExceeded
from tests.service.artefacts import PoisonDecode, write_diffusion, write_one_shot
from tests.service.engine.conftest import CPU, Watched, deliver, new_lane, pictures_of, request_rows, sample

NO_CLASS = 3
PLACES = 5
NAMES = st.sampled_from(["ddpm", "vae"])
SEEDS = st.integers(0, 2**32 - 1)
#: For how long a sender waits; now and then for no time at all.
PATIENCE = st.sampled_from([math.inf, math.inf, math.inf, 2.0, 0.0])


class Clock:
    """What the lane takes for the time."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@dataclass
class Sent:
    """A request, and what may become of it."""

    name: str
    rows: list[RowSpec]
    expires_at: float
    poisoned: bool
    ends: list[Job[Picture]] = field(default_factory=list)
    abandoned: bool = False


class Schedules(RuleBasedStateMachine):
    """Two lanes with fewer places than there is work, and everything that happens around them in any order."""

    batching: ClassVar[Literal["step", "request"]] = "step"

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        path = Path(self.folder.name)
        write_diffusion(path, "ddpm")
        write_one_shot(path, "vae", PoisonDecode())
        self.models = {name: load_model(path / name, CPU) for name in ("ddpm", "vae")}
        self.watched = {name: Watched(model) for name, model in self.models.items()}
        self.lanes = {name: new_lane(each.model, PLACES, 3, self.batching) for name, each in self.watched.items()}
        self.clock = Clock()
        self.patch = mock.patch("service.engine.lane.time", self.clock)
        self.patch.start()
        self.jobs: dict[Job[Picture], Sent] = {}
        self.running: list[tuple[str, Slots]] = []
        self.mail: list[Ended] = []
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
            job: Job[Picture] = Job(len(rows), self.clock.now, sent.expires_at, sent.ends.append)
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
        deliver(self.mail, now=self.clock.now)
        self.mail.clear()

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
        ticked = lane.abandon(slots) if fails else lane.compute(slots)
        lane.settle(ticked, spent_ms=1.0)
        for row, _ in ticked.ended if fails else []:
            if row.job in self.jobs:
                self.jobs[row.job].abandoned = True
        self.ended_rows[name] += len(ticked.ended)
        self.mail += ticked.ended

    def check(self, job: Job[Picture], sent: Sent) -> None:
        assert sent.ends == [job]
        if job.future.cancelled():
            return
        if (failure := job.future.exception()) is not None:
            late = isinstance(failure, DeadlineExceeded) and sent.expires_at <= self.clock.now
            assert late or (isinstance(failure, ComputeFailed) and (sent.poisoned or sent.abandoned)), failure
            return
        assert not sent.poisoned
        assert not sent.abandoned
        for row, picture in zip(sent.rows, job.future.result(), strict=True):
            np.testing.assert_allclose(picture.astype(int), self.alone(sent.name, row).astype(int), atol=1)

    def alone(self, name: str, row: RowSpec) -> Picture:
        return self.loop.run_until_complete(pictures_of(new_lane(self.models[name], PLACES, 3), [row]))[0]

    def every_row_left_once_and_every_place_is_free(self, name: str, lane: Lane) -> None:
        dropped = sample(lane.metrics.dropped_queued) + sample(lane.metrics.dropped_running)
        assert self.sent_rows[name] == self.ended_rows[name] + dropped
        assert lane.queued == lane.live == 0
        self.clock.now = 0.0
        self.send(name, request_rows(2 * PLACES, 0, 0, 1.0, self.models[name].plan()), math.inf)
        lane.claim(None, threads=PLACES)
        assert lane.live == PLACES


class SchedulesByRequest(Schedules):
    """The same when a batch runs to its end before the next begins."""

    batching = "request"


TestSchedules = Schedules.TestCase
TestSchedulesByRequest = SchedulesByRequest.TestCase
TestSchedules.settings = TestSchedulesByRequest.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None
)
