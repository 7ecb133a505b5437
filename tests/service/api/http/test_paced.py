"""Documents that many ask for at once."""

import asyncio

import pytest

from service.api.http.paced import BURST_S, SHARE, Paced
from tests.service.clock import Clock


async def test_those_who_wait_at_the_same_time_share_a_document() -> None:
    made: list[int] = []

    def make() -> bytes:
        made.append(len(made))
        return b"%d" % made[-1]

    paced = Paced()
    assert await asyncio.gather(*(paced.get("a", make) for _ in range(8))) == [b"0"] * 8
    assert await paced.get("a", make) == b"1"  # made after it was asked for


async def test_documents_take_a_bounded_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = Clock(), 0

    async def sleep(seconds: float) -> None:
        clock.now += seconds

    def make() -> bytes:
        nonlocal made
        clock.now += 0.05
        made += 1
        return b""

    monkeypatch.setattr(asyncio, "sleep", sleep)
    paced = Paced(clock)
    while clock.now < 100:
        await paced.get("a", make)
    assert 0.9 * 100 * SHARE < made * 0.05 < 100 * SHARE + BURST_S + 0.1


async def test_a_failure_is_everyones_and_the_next_document_is_made() -> None:
    def fail() -> bytes:
        raise ValueError

    paced = Paced()
    results = await asyncio.gather(*(paced.get("a", fail) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in results] == [ValueError] * 3
    assert await paced.get("a", lambda: b"fine") == b"fine"
