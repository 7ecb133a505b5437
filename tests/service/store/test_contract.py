"""What every store does, in memory and in a file."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.errors import (
    ClientJobsFull,
    ComputeFailed,
    JobExpired,
    JobsFull,
    KeyInUse,
    KeyReused,
    ServiceStopping,
    UnknownJob,
)
from service.store.bounded import Bounds
from service.store.events import Event
from service.store.job import RECORD_BYTES, JobProgress, JobView
from service.store.jobs import GONE_PER_JOB
from service.store.keys import ENTRY_BYTES, KeptAnswer, Key
from tests.service.store.stores import Opened, make, opened, succeed

KINDS = ("memory", "sqlite", "redis")
ONE, TWO = Key("client", "one"), Key("client", "two")


def recipe() -> bytes:
    return b"recipe"


@pytest.fixture(params=KINDS)
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(request.param, tmp_path) as each:
        yield each


async def everything(job: JobView[str], after: int = 0) -> list[Event]:
    """The events of a job that has ended."""
    told = []
    with job.listen(after) as listener:
        while not listener.over:
            event = await listener.next(1.0)
            if event is not None:
                told.append(event)
    return told


async def ended(store: Opened, id: str) -> JobView[str]:
    await store.settle()
    return await store.jobs.get(id)


async def test_a_job_that_succeeds(store: Opened) -> None:
    job = make("one", created=12.5)
    await store.jobs.add(job, recipe)
    assert not (await store.jobs.get("one")).done
    job.update_progress(JobProgress(0.0, 3, 50.0))
    job.add_preview(b"preview", 7)
    job.add_image(b"image", 5)
    succeed(job)
    kept = await ended(store, "one")
    assert (kept.id, kept.created, kept.state, kept.done) == ("one", 12.5, "succeeded", True)
    assert (kept.progress, kept.error, kept.last_event) == (JobProgress(1.0, 0, 0.0), None, 5)
    assert kept.about == job.about
    assert await kept.output() == "result"
    told = await everything(kept)
    names = ["queued", "started", "preview", "image", "completed"]
    assert [(each.id, each.name) for each in told] == [*enumerate(names, 1)]
    assert [each.payload for each in told[2:]] == [b"preview", b"image", b"result"]
    assert [each.id for each in await everything(kept, after=3)] == [4, 5]
    assert await kept.wait(0.0)


async def test_a_job_that_fails(store: Opened) -> None:
    job = make("one")
    await store.jobs.add(job, recipe)
    job.fail(ComputeFailed("No picture."))
    kept = await ended(store, "one")
    assert kept.state == "failed"
    assert kept.error is not None
    assert (kept.error.status, kept.error.code, kept.error.detail) == (500, "compute-failed", "No picture.")
    assert await kept.output() is None
    assert [each.name for each in await everything(kept)] == ["error"]


@pytest.mark.parametrize("early", [False, True])
async def test_a_job_that_is_cancelled(store: Opened, early: bool) -> None:
    job = make("one")
    await store.jobs.add(job, recipe)
    if not early:
        succeed(job)
        await store.settle()
    kept = await store.jobs.cancel("one")
    assert kept.state == ("canceled" if early else "succeeded")
    assert job.done
    again = await ended(store, "one")
    assert again.state == kept.state
    if early:
        assert again.error is not None
        assert again.error.code == "job-canceled"
    with pytest.raises(UnknownJob):
        await store.jobs.cancel("two")


async def test_ended_jobs_expire(store: Opened) -> None:
    job = make("one")
    await store.jobs.add(job, recipe)
    store.clock.now = 5000.0
    assert await store.jobs.get("one") is job
    job.cancel()
    await store.settle()
    store.clock.now += 599.9
    assert (await store.jobs.get("one")).done
    store.clock.now += 0.2
    with pytest.raises(JobExpired, match=r"one has expired.*600 s"):
        await store.jobs.get("one")
    assert await store.jobs.of("a", 10) == []
    with pytest.raises(UnknownJob):
        await store.jobs.get("two")


@pytest.mark.parametrize("kind", KINDS)
async def test_only_so_many_jobs_are_open(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(2, 1 << 20, 600.0)) as store:
        for id in ("one", "two"):
            await store.jobs.add(make(id), recipe)
        with pytest.raises(JobsFull):
            await store.jobs.add(make("three"), recipe)
        assert store.jobs.open == 2
        await store.jobs.cancel("one")
        await store.jobs.add(make("three"), recipe)
        assert store.jobs.open == 2


@pytest.mark.parametrize("kind", KINDS)
async def test_only_so_many_ids_that_are_gone_are_remembered(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(1, 1 << 20, 600.0)) as store:
        for number in range(GONE_PER_JOB + 2):
            await store.jobs.add(make(str(number)), recipe)
            await store.jobs.cancel(str(number))
        with pytest.raises(UnknownJob):
            await store.jobs.get("0")
        with pytest.raises(JobExpired):
            await store.jobs.get("1")


@pytest.mark.parametrize("kind", KINDS)
async def test_one_that_alone_is_too_large_is_not_kept(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(4, RECORD_BYTES, 600.0)) as store:
        job = make("large")
        await store.jobs.add(job, recipe)
        succeed(job)
        await store.settle()
        for _ in range(2):
            with pytest.raises(JobExpired):
                await store.jobs.get("large")
            await store.jobs.remove("large")


@pytest.mark.parametrize("kind", KINDS)
async def test_one_client_has_only_its_share_of_the_open_jobs(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(5, 1 << 20, 600.0, client_share=0.5)) as store:
        for id in ("one", "two"):
            await store.jobs.add(make(id), recipe)
        with pytest.raises(ClientJobsFull, match="2 of your jobs"):
            await store.jobs.add(make("three"), recipe)
        await store.jobs.add(make("other", "b"), recipe)
        await store.jobs.cancel("one")
        await store.jobs.add(make("three"), recipe)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_flood_of_jobs_takes_no_result_of_another_client(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(6, 1 << 20, 600.0)) as store:
        own = [make(f"own-{number}", "good") for number in range(2)]
        for job in own:
            await store.jobs.add(job, recipe)
            succeed(job)
        await store.settle()
        for number in range(20):
            job = make(str(number), f"flood-{number % 2}")
            await store.jobs.add(job, recipe)
            succeed(job, "x" * 1000)
            await store.settle()
        for job in own:
            assert await (await store.jobs.get(job.id)).output() == "result"
        assert len(await store.jobs.of("flood-0", 10)) + len(await store.jobs.of("flood-1", 10)) == 4


@pytest.mark.parametrize("kind", KINDS)
async def test_nor_do_jobs_that_do_not_end(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(6, 1 << 20, 600.0)) as store:
        own = make("own", "good")
        await store.jobs.add(own, recipe)
        succeed(own)
        await store.settle()
        for number in range(5):
            await store.jobs.add(make(str(number), "flood"), recipe)
        with pytest.raises(ClientJobsFull, match="5 of your jobs"):
            await store.jobs.add(make("more", "flood"), recipe)
        assert await (await store.jobs.get("own")).output() == "result"
        await store.jobs.add(make("new", "good"), recipe)  # it takes the room of its own


@pytest.mark.parametrize("ends", [False, True])
async def test_removing_ends_and_forgets_and_may_be_repeated(store: Opened, ends: bool) -> None:
    job = make("one")
    await store.jobs.add(job, recipe)
    if ends:
        succeed(job)
        await store.settle()
    for _ in range(2):
        await store.jobs.remove("one")
        await store.settle()
        assert job.done
        assert store.jobs.open == 0
        with pytest.raises(JobExpired):
            await store.jobs.get("one")
    with pytest.raises(UnknownJob):
        await store.jobs.remove("two")


async def test_a_client_sees_its_own_jobs_the_latest_first(store: Opened) -> None:
    jobs = [make(str(number), client="ab"[number % 2], created=number) for number in range(6)]
    for job in jobs:
        await store.jobs.add(job, recipe)
    jobs[4].cancel()
    await store.settle()
    assert [job.id for job in await store.jobs.of("a", 10)] == ["4", "2", "0"]
    assert [job.id for job in await store.jobs.of("b", 2)] == ["5", "3"]
    assert await store.jobs.of("c", 10) == []
    assert [job.id for job in await store.jobs.of("a", 10, only_open=True)] == ["2", "0"]


async def test_who_waits_is_told_of_the_end(store: Opened) -> None:
    job = make("one")
    await store.jobs.add(job, recipe)
    kept = await store.jobs.get("one")
    assert not await kept.wait(0.001)
    waiting = asyncio.create_task(kept.wait(20.0))
    await asyncio.sleep(0)
    job.cancel()
    assert await waiting


async def test_closing_ends_what_is_open(store: Opened) -> None:
    jobs = [make(str(number)) for number in range(3)]
    for job in jobs:
        await store.jobs.add(job, recipe)
    succeed(jobs[0])
    await store.jobs.close()
    assert [job.state for job in jobs] == ["succeeded", "failed", "failed"]
    assert isinstance(jobs[1].error, ServiceStopping)


def answer(text: str = "answer") -> KeptAnswer:
    return KeptAnswer(202, ((b"x-seed", b"\xff1"), (b"vary", b"Accept")), text.encode())


async def test_a_request_is_answered_once_and_then_again(store: Opened) -> None:
    keyed = store.keyed
    assert await keyed.claim(ONE, b"body") is None
    with pytest.raises(KeyInUse):
        await keyed.claim(ONE, b"body")
    with pytest.raises(KeyReused):
        await keyed.claim(ONE, b"other")
    await keyed.keep(ONE, answer())
    store.clock.now = 599.0
    kept = await keyed.claim(ONE, b"body")
    assert kept is not None
    assert (kept.status, [*kept.headers], kept.body) == (202, [*answer().headers], b"answer")
    with pytest.raises(KeyReused):
        await keyed.claim(ONE, b"other")
    store.clock.now = 600.0
    assert await keyed.claim(ONE, b"other") is None


async def test_a_key_is_its_clients_own(store: Opened) -> None:
    assert await store.keyed.claim(ONE, b"body") is None
    assert await store.keyed.claim(Key("other client", "one"), b"other") is None


async def test_a_request_without_an_answer_may_be_sent_again(store: Opened) -> None:
    for body in (b"body", b"other"):
        assert await store.keyed.claim(ONE, body) is None
        await store.keyed.release(ONE)


@pytest.mark.parametrize("kind", KINDS)
async def test_only_so_many_are_answered_at_a_time(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(1, 1 << 20, 600.0)) as store:
        await store.keyed.claim(ONE, b"body")
        with pytest.raises(KeyInUse):
            await store.keyed.claim(TWO, b"body")
        await store.keyed.keep(ONE, answer())
        assert await store.keyed.claim(TWO, b"body") is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[0] * 6, [ENTRY_BYTES, 0, 3 * ENTRY_BYTES, 0], [9 * ENTRY_BYTES], [ENTRY_BYTES] * 5])
async def test_the_oldest_answers_make_room(kind: str, sizes: list[int], tmp_path: Path) -> None:
    most, most_bytes = 4, 6 * ENTRY_BYTES
    async with opened(kind, tmp_path, Bounds(most, most_bytes, 600.0)) as store:
        for number, size in enumerate(sizes):
            key = Key("client", str(number))
            assert await store.keyed.claim(key, b"body") is None
            await store.keyed.keep(key, answer("x" * size))
        fits, left = 0, most_bytes
        for size in reversed(sizes):
            left -= ENTRY_BYTES + size
            if left < 0 or fits == most:
                break
            fits += 1
        oldest_kept = len(sizes) - fits
        for number in reversed(range(max(oldest_kept - 1, 0), len(sizes))):
            kept = await store.keyed.claim(Key("client", str(number)), b"body")
            assert (kept is not None) == (number >= oldest_kept)


@pytest.mark.parametrize("kind", KINDS)
async def test_answers_of_one_client_take_no_room_of_another(kind: str, tmp_path: Path) -> None:
    async with opened(kind, tmp_path, Bounds(4, 1 << 20, 600.0, client_share=0.5)) as store:
        assert await store.keyed.claim(ONE, b"body") is None
        await store.keyed.keep(ONE, answer())
        for number in range(10):
            key = Key("flood", str(number))
            assert await store.keyed.claim(key, b"body") is None
            await store.keyed.keep(key, answer("x" * 1000))
        assert await store.keyed.claim(ONE, b"body") is not None
        for number in range(2):
            await store.keyed.claim(Key("flood", f"open-{number}"), b"body")
        with pytest.raises(KeyInUse):
            await store.keyed.claim(Key("flood", "another"), b"body")
        assert await store.keyed.claim(TWO, b"body") is None
