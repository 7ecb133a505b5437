"""A Redis server that hangs, ends and returns."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from service.errors import StoreUnavailable
from service.store.keys import KeptAnswer, Key
from service.store.redis.connection import Connection, address_of
from service.store.redis.store import LEASE_S, RedisRecords
from service.store.shared.jobs import SharedJobs
from service.store.shared.rows import StoreRefused
from tests.redis_server import SECONDS, RedisServer, redis_server
from tests.service.store.stores import BOUNDS, Opened, lose, make, opened, succeed
from tests.service.store.test_contract import everything, recipe

KEY = Key("client", "one")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.store.redis.connection.PAUSE_S", 0.05)


def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have calls of a server that hangs fail soon; before that a busy machine has time to answer."""
    monkeypatch.setattr("service.store.redis.connection.CALL_S", 0.3)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when ``condition`` holds, also after errors of a server that is away."""
    give_up = time.monotonic() + SECONDS
    while True:
        try:
            if await condition():
                return
        except StoreUnavailable:
            pass
        assert time.monotonic() < give_up
        await asyncio.sleep(0.02)


def ends(store: Opened, id: str, state: str = "succeeded") -> Callable[[], Awaitable[bool]]:
    async def condition() -> bool:
        return (await store.jobs.get(id)).state == state

    return condition


async def require_rejected(store: Opened) -> None:
    with pytest.raises(
        StoreUnavailable, match=r"\(Redis\) cannot be used at the moment: it does not answer"
    ) as failure:
        await store.jobs.add(make("late"), recipe)
    assert failure.value.status == 503
    assert failure.value.retry_after_s in {1, 2}
    with pytest.raises(StoreUnavailable):
        await store.keyed.claim(KEY, b"body")


@pytest.mark.parametrize("dies", [False, True])
async def test_a_server_that_hangs_or_dies(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    async with (
        opened("redis", tmp_path, server=server) as store,
        opened("redis", tmp_path, server=server, patience_s=LEASE_S) as other,
    ):
        job, idle = make("job"), make("idle")
        for each in (job, idle):
            await store.jobs.add(each, recipe)
        hurry(monkeypatch)
        following = asyncio.create_task(everything(await other.jobs.get("job")))
        (server.kill if dies else server.hang)()
        await require_rejected(store)
        job.add_image(b"image", 5)
        succeed(job)
        assert (await store.jobs.get("job")).done  # its own process needs no server
        monkeypatch.undo()
        (server.start if dies else server.go_on)()
        await until(ends(other, "job"))
        assert [each.name for each in await following] == ["started", "image", "completed"]
        await until(lambda: claimed(store))
        await until(lambda: unknown(other, "late"))
        assert not idle.done
        await store.jobs.cancel("idle")


async def claimed(store: Opened) -> bool:
    return await store.keyed.claim(Key("client", "two"), b"body") is None


async def unknown(store: Opened, id: str) -> bool:
    """Whether a job that was rejected is not there, although the server may have got it."""
    return id not in {job.id for job in await store.jobs.of("a", 9)}


async def test_leases_that_expired_while_the_server_was_away_are_renewed_first(
    server: RedisServer, tmp_path: Path
) -> None:
    async with (
        opened("redis", tmp_path, server=server) as store,
        opened("redis", tmp_path, server=server, patience_s=LEASE_S) as other,
    ):
        await store.jobs.add(make("job"), recipe)
        await lose(store)
        assert await other.jobs.claim() is None
        assert await store.jobs.claim() is None  # renews its own

    async with opened("redis", tmp_path, server=server) as last:
        found = await last.jobs.claim()
        assert found is not None
        assert found.crashes == 0


async def test_a_claim_whose_answer_was_lost_is_given_back(server: RedisServer, tmp_path: Path) -> None:
    async with opened("redis", tmp_path, server=server) as store:
        await store.jobs.add(make("job"), recipe)
    async with opened("redis", tmp_path, server=server) as store:
        assert isinstance(store.records, RedisRecords)
        assert await store.records.claim([]) is not None  # as if the answer had not come

        async def again() -> bool:
            return await store.jobs.claim() is not None

        await until(again)


async def test_a_service_starts_without_its_server(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    async with opened("redis", tmp_path, server=server) as store:
        await require_rejected(store)
        server.start()
        await until(lambda: claimed(store))


async def test_a_server_without_memory_takes_no_job_and_ends_others(server: RedisServer, tmp_path: Path) -> None:
    async with opened("redis", tmp_path, server=server) as store:
        assert isinstance(store.records, RedisRecords)
        job, done = make("job"), make("done")
        for each in (job, done):
            await store.jobs.add(each, recipe)
        await store.records._connection.command("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreUnavailable, match="it refuses the call"):
            await store.jobs.add(make("late"), recipe)
        succeed(done)
        await store.settle()
        assert (await store.jobs.get("done")).state == "succeeded"
        await store.jobs.remove("job")
        await store.records._connection.command("CONFIG", "SET", "maxmemory", 0)
        await store.jobs.add(make("late"), recipe)


async def test_a_password_is_used_and_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with redis_server("sesame") as server:
        async with opened("redis", tmp_path, server=server) as store:
            await store.jobs.add(make("job"), recipe)
            server.kill()
            with pytest.raises(StoreUnavailable) as failure:
                await store.jobs.add(make("late"), recipe)
            server.start()
        wrong = Connection(server.url().replace("sesame", "hush-hush"))
        with pytest.raises(StoreRefused, match=r"Redis at redis://127.0.0.1:\d+/0 rejects the service") as refused:
            await wrong.check()
        await wrong.close()
    told = [str(failure.value), str(refused.value), *(str(vars(record)) for record in caplog.records)]
    assert not any("sesame" in each or "hush" in each for each in told)


def test_an_address_shows_neither_user_nor_password() -> None:
    assert address_of("rediss://me:a@b@host:1/2?ssl_ca_certs=x") == "rediss://host:1/2"


async def test_nothing_is_left_of_jobs_and_keys_that_are_gone(server: RedisServer, tmp_path: Path) -> None:
    async with opened("redis", tmp_path, server=server) as store:
        assert isinstance(store.records, RedisRecords)
        for number in range(6):
            job = make(str(number), "ab"[number % 2])
            await store.jobs.add(job, recipe)
            job.add_preview(b"preview", 7)
            if number % 3:
                succeed(job)
            await store.settle()
            await store.jobs.remove(str(number))
            await store.keyed.claim(KEY, b"body")
            await store.keyed.release(KEY)
        command = store.records._connection.command
        left = {name.decode().partition(":")[2] for name in await command("KEYS", "*")}
        owner = f"lease:{store.records.owner}"
        assert left <= {"owners", owner, "gone", "gone:last", "changes", "jobs:last", "jobs:total", "keys:total"}
        total = await command("HGETALL", "{genserve-1}:jobs:total")
        assert {int(value) for value in total.values()} == {0}


async def test_a_lease_that_is_not_renewed_expires(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened("redis", tmp_path, server=server) as other:
        monkeypatch.setattr("service.store.redis.store._LEASE_MS", 100)
        async with opened("redis", tmp_path, server=server) as dying:
            await dying.jobs.add(make("job"), recipe)
            assert isinstance(dying.jobs, SharedJobs)
            assert dying.jobs._task is not None
            dying.jobs._task.cancel()

            async def taken() -> bool:
                return await other.jobs.claim() is not None

            await until(taken)


async def test_what_clients_read_expires_also_if_all_processes_have_ended(server: RedisServer, tmp_path: Path) -> None:
    async with opened("redis", tmp_path, server=server) as store:
        assert isinstance(store.records, RedisRecords)
        job = make("job")
        await store.jobs.add(job, recipe)
        job.add_preview(b"preview", 7)
        succeed(job)
        await store.settle()
        await store.keyed.claim(KEY, b"body")
        await store.keyed.keep(KEY, KeptAnswer(200, (), b"answer"))
        for name in ("jobs:data:job", "events:job", "transient:job", "keys:data:client\0one"):
            left_s = await store.records._connection.command("TTL", f"{{genserve-1}}:{name}")
            assert BOUNDS.keep_s < left_s <= BOUNDS.keep_s + 60
