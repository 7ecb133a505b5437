"""A store in a file or on a server: as one in memory, shared by processes, and alive after them."""

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import ComputeFailed, JobsFull, KeyInUse, MemoryFull, ServiceError
from service.store.bounded import Bounds
from service.store.job import RECORD_BYTES, JobProgress
from service.store.keys import KeptAnswer, Key
from tests.service.store.stores import BOUNDS, Opened, Record, die, lose, make, opened, succeed
from tests.service.store.test_contract import everything, recipe

T = TypeVar("T")

KINDS = ("sqlite", "redis")

HOW: dict[str, Callable[[Record], None]] = {
    "succeed": succeed,
    "fail": lambda job: job.fail(ComputeFailed("No.")),
    "cancel": lambda job: job.cancel(),
    "preview": lambda job: job.add_preview(b"p" * 700, 700),
    "image": lambda job: job.add_image(b"i" * 900, 900),
    "place": lambda job: job.update_progress(JobProgress(0.5, job.last_event % 3, 1.0)),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of store that processes share."""
    return str(request.param)


class Same(RuleBasedStateMachine):
    """Whatever happens to jobs, a store in a file and one on a server tell the same of them as one in memory."""

    BOUNDS = Bounds(4, 6 * RECORD_BYTES, 10.0, client_share=0.5)

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.stack = AsyncExitStack()
        self.folder = tempfile.TemporaryDirectory()
        self.stores: list[Opened] = self.run(self.open)
        self.jobs: dict[str, list[Record]] = {}

    def run(self, work: Callable[[], Awaitable[T]]) -> T:
        async def call() -> T:
            return await work()

        return self.runner.run(call())

    async def open(self) -> list[Opened]:
        folder = Path(self.folder.name)
        stores = [opened(kind, folder, self.BOUNDS) for kind in ("memory", *KINDS)]
        return [await self.stack.enter_async_context(each) for each in stores]

    def teardown(self) -> None:
        self.run(self.stack.aclose)
        self.runner.close()
        self.folder.cleanup()

    async def each(self, call: Callable[[Opened], Awaitable[object]]) -> list[object]:
        """What a call has for each store, or the code of its error."""
        told: list[object] = []
        for store in self.stores:
            try:
                told.append(await call(store))
            except ServiceError as failure:
                told.append(failure.code)
            await store.settle()
        return told

    def alike(self, call: Callable[[Opened], Awaitable[object]]) -> None:
        one, *others = self.run(lambda: self.each(call))
        assert others == [one] * len(KINDS)

    @rule(fill=st.integers(0, RECORD_BYTES))
    def add(self, fill: int) -> None:
        id = str(len(self.jobs))
        pair = [make(id, "abc"[fill % 3], len(self.jobs), fill) for _ in self.stores]
        self.jobs[id] = pair
        of_store = dict(zip(map(id_of, self.stores), pair, strict=True))

        async def call(store: Opened) -> None:
            await store.jobs.add(of_store[id_of(store)], recipe)

        self.alike(call)

    @rule(data=st.data(), how=st.sampled_from(sorted(HOW)))
    def happen(self, data: st.DataObject, how: str) -> None:
        if self.jobs:
            for job in self.jobs[data.draw(st.sampled_from(sorted(self.jobs)))]:
                HOW[how](job)
            self.run(lambda: self.each(Opened.settle))

    @rule(data=st.data(), removed=st.booleans())
    def give_up(self, data: st.DataObject, removed: bool) -> None:
        if self.jobs:
            id = data.draw(st.sampled_from(sorted(self.jobs)))

            async def call(store: Opened) -> object:
                if removed:
                    await store.jobs.remove(id)
                    return None
                return (await store.jobs.cancel(id)).state

            self.alike(call)

    @rule(seconds=st.floats(0.0, 6.0))
    def wait(self, seconds: float) -> None:
        for store in self.stores:
            store.clock.now += seconds

    @invariant()
    def they_tell_the_same(self) -> None:
        for id in [*self.jobs, "never"]:
            self.alike(lambda store, id=id: told_of(store, id))  # type: ignore[misc]
        for client in "abc":
            self.alike(lambda store, client=client: listed(store, client))  # type: ignore[misc]
        assert len({store.jobs.open for store in self.stores}) == 1


def id_of(store: Opened) -> int:
    return id(store)


async def told_of(store: Opened, id: str) -> object:
    job = await store.jobs.get(id)
    events = [(each.id, each.name) for each in await everything(job)] if job.done else None
    error = None if job.error is None else (job.error.code, job.error.detail)
    return job.state, job.progress, error, job.last_event, events, await job.output()


async def listed(store: Opened, client: str) -> object:
    return [job.id for job in await store.jobs.of(client, 5)]


Same.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestSame = Same.TestCase


async def test_another_process_sees_and_follows_a_job(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        job = make("job", client="a")
        await one.jobs.add(job, recipe)
        seen = await other.jobs.get("job")
        assert (seen.state, seen.about, seen.done) == ("queued", job.about, False)
        assert [each.id for each in await other.jobs.of("a", 9)] == ["job"]
        listening = asyncio.create_task(everything(seen))
        job.update_progress(JobProgress(0.0, 2, 9.0))
        job.add_image(b"image", 5)
        waiting = asyncio.create_task(seen.wait(20.0))
        succeed(job, "pictures")
        assert [each.name for each in await listening] == ["queued", "started", "image", "completed"]
        assert await waiting
        assert seen.state == "succeeded"
        assert await seen.output() == "pictures"


async def test_a_listener_that_leaves_need_not_wait(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        await one.jobs.add(make("job"), recipe)
        with (await other.jobs.get("job")).listen() as listener:
            waiting = asyncio.create_task(listener.next(60.0))
            await asyncio.sleep(0)
            listener.close()
            assert await asyncio.wait_for(waiting, 10.0) is None
            assert listener.over


@pytest.mark.parametrize("removed", [False, True])
async def test_another_process_ends_a_job(removed: bool, kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        job, kept = make("job"), make("kept")
        for each in (job, kept):
            await one.jobs.add(each, recipe)
        told = asyncio.create_task(everything(await other.jobs.get("job")))
        await asyncio.sleep(0)
        if removed:
            await other.jobs.remove("job")
        else:
            assert (await other.jobs.cancel("job")).state == "canceled"
        assert await job.wait(20.0)  # the process that computes it is told
        assert [each.name for each in await told] == ["error"]
        assert not kept.done
        assert one.jobs.open == 1


async def test_limits_hold_for_all_processes(kind: str, tmp_path: Path) -> None:
    bounds = Bounds(2, 1 << 20, 600.0)
    async with opened(kind, tmp_path, bounds, 20) as one, opened(kind, tmp_path, bounds, 20) as other:
        await one.jobs.add(make("one"), lambda: b"0123456789")
        with pytest.raises(MemoryFull):
            await other.jobs.add(make("two"), lambda: b"0123456789-")
        await other.jobs.add(make("two"), lambda: b"0123456789")
        for store in (one, other):
            with pytest.raises(JobsFull):
                await store.jobs.add(make("three"), recipe)
        await one.jobs.cancel("one")
        await other.jobs.add(make("three"), lambda: b"0123456789")  # the upload of an ended job is dropped


async def test_one_of_two_processes_answers_a_key(kind: str, tmp_path: Path) -> None:
    key = Key("client", "one")
    async with opened(kind, tmp_path) as one, opened(kind, tmp_path) as other:
        claims = await asyncio.gather(
            *(store.keyed.claim(key, b"body") for store in (one, other)), return_exceptions=True
        )
        assert {type(claim) for claim in claims} == {KeyInUse, type(None)}
        winner = one if claims[0] is None else other
        await winner.keyed.keep(key, KeptAnswer(200, (), b"answer"))
        for store in (one, other):
            kept = await store.keyed.claim(key, b"body")
            assert kept is not None
            assert kept.body == b"answer"


async def test_jobs_of_a_dead_process_are_claimed_once(kind: str, tmp_path: Path) -> None:
    async with (
        opened(kind, tmp_path) as one,
        opened(kind, tmp_path) as two,
        opened(kind, tmp_path) as dead,
    ):
        job, done = make("job", client="c", created=3.0), make("done")
        for each in (job, done):
            await dead.jobs.add(each, recipe)
        await dead.keyed.claim(Key("client", "one"), b"body")
        job.add_image(b"image", 5)
        succeed(done)
        await dead.settle()
        assert await one.jobs.claim() is None  # its process is alive
        await die(dead)
        claims = [await store.jobs.claim() for store in (one, two, one)]
        found = [claim for claim in claims if claim is not None]
        assert [(each.id, each.client, each.created, each.recipe, each.crashes) for each in found] == [
            ("job", "c", 3.0, b"recipe", 1)
        ]
        assert found[0].last_event > job.last_event
        # It begins again: its events are new, with ids that were never used.
        again = make("job", client="c", last_event=found[0].last_event)
        taker = one if claims[0] is not None else two
        await taker.jobs.resume(again)
        succeed(again)
        await taker.settle()
        told = await everything(await two.jobs.get("job"), after=job.last_event)
        assert [each.name for each in told] == ["started", "completed"]
        assert min(each.id for each in told) > job.last_event
        assert (await two.jobs.get("done")).state == "succeeded"
        assert await one.keyed.claim(Key("client", "one"), b"body") is None


async def test_what_stops_leaves_its_jobs_to_the_next(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        job, done = make("job"), make("done", created=1.0)
        for each in (job, done):
            await store.jobs.add(each, recipe)
        succeed(done)
        told = asyncio.create_task(everything(job))
        await asyncio.sleep(0)
    assert [each.name for each in await told] == ["error"]
    async with opened(kind, tmp_path) as store:
        assert [each.state for each in await store.jobs.of("a", 9)] == ["succeeded", "queued"]
        found = await store.jobs.claim()
        assert found is not None
        assert (found.id, found.crashes) == ("job", 0)
        await store.jobs.unclaim("job")
        assert await store.jobs.claim(["model", "other"]) is None
        assert await store.jobs.claim(["other"]) == found
        await store.jobs.fail("job", ComputeFailed("No."))
        failed = await store.jobs.get("job")
        assert failed.error is not None
        assert (failed.state, failed.error.detail) == ("failed", "No.")
        assert await store.jobs.claim() is None


async def test_jobs_that_were_in_two_crashes_are_computed_one_at_a_time(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as last:
        for crash in range(2):
            async with opened(kind, tmp_path) as dead:
                for id in ("one", "two"):
                    if crash:
                        assert await dead.jobs.claim() is not None
                    else:
                        await dead.jobs.add(make(id, created=float(id == "two")), recipe)
                await die(dead)
        first = await last.jobs.claim()
        assert first is not None
        assert (first.id, first.crashes) == ("one", 2)
        assert await last.jobs.claim() is None
        await last.jobs.fail("one", ComputeFailed("No."))
        second = await last.jobs.claim()
        assert second is not None
        assert second.id == "two"


async def test_a_process_that_lost_a_job_writes_no_more_of_it(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as slow, opened(kind, tmp_path) as other:
        job = make("job")
        await slow.jobs.add(job, recipe)
        await lose(slow)
        assert await other.jobs.claim() is not None
        job.add_image(b"image", 5)
        succeed(job)
        await slow.settle()
        seen = await other.jobs.get("job")
        assert (seen.state, await seen.output()) == ("queued", None)
        assert slow.jobs.open == 0


async def test_a_cancelled_request_leaves_no_job(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path) as store:
        adding = asyncio.create_task(store.jobs.add(make("job"), recipe))
        await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        await store.settle()
        assert await store.jobs.of("a", 9) == []


async def test_outdated_previews_leave_the_store(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, BOUNDS) as store:
        job = make("job")
        await store.jobs.add(job, recipe)
        for _ in range(3):
            for _ in range(100):
                job.add_preview(b"preview", 7)
            await store.settle()
        succeed(job)
        await store.settle()
        told = await everything(await store.jobs.get("job"))
        assert [each.id for each in told if each.name == "preview"] == [*range(174, 302)]
        assert [each.name for each in told if each.name != "preview"] == ["started", "completed"]
