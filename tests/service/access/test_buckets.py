"""Buckets of device time, with a clock of their own."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.access.buckets import BURST_S, LONGEST_NS, NS_PER_S, Bucket, Buckets


@dataclass
class Clock:
    now: int = 1_000 * NS_PER_S

    def __call__(self) -> int:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += round(seconds * NS_PER_S)


def admitted(bucket: Bucket, price_ms: float) -> bool:
    """As the service does it: a request is admitted while there is something in the bucket."""
    if bucket.wait_s():
        return False
    bucket.take(price_ms)
    return True


def test_a_full_bucket_has_the_device_time_of_ten_seconds() -> None:
    clock = Clock()
    bucket = Buckets(clock=clock).bucket(0, 100.0)
    assert (bucket.quota_ms, bucket.left_ms, bucket.until_full_s()) == (1000.0, 1000.0, 0)
    assert [admitted(bucket, 400) for _ in range(4)] == [True, True, True, False]
    assert bucket.left_ms == pytest.approx(-200)
    assert (bucket.wait_s(), bucket.until_full_s()) == (3, 12)
    clock.sleep(2.1)
    assert bucket.wait_s() == 0
    assert admitted(bucket, 1)
    clock.sleep(1_000)
    assert bucket.left_ms == 1000


def test_after_the_wait_a_request_is_admitted() -> None:
    clock = Clock()
    bucket = Buckets(clock=clock).bucket(0, 3.0)
    for price in (30, 31, 100, 1000):
        bucket.take(price)
        while wait_s := bucket.wait_s():
            assert not admitted(bucket, 1)
            clock.sleep(wait_s)
        assert admitted(bucket, 0.1)


@given(
    rate=st.floats(0.01, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 30), st.floats(0.001, 1e5)), max_size=60),
)
def test_no_more_is_admitted_than_the_rate_the_burst_and_the_last_request(
    rate: float, steps: list[tuple[float, float]]
) -> None:
    clock = Clock()
    bucket = Buckets(clock=clock).bucket(7, rate)
    began, taken, largest = clock.now, 0.0, 0.0
    for pause_s, price in steps:
        clock.sleep(pause_s)
        if admitted(bucket, price):
            taken, largest = taken + price, max(largest, price)
        passed_s = (clock.now - began) / NS_PER_S
        assert taken <= (rate * (passed_s + BURST_S) + largest) * (1 + 1e-6) + 1e-3
        assert bucket.left_ms <= bucket.quota_ms


def test_a_key_within_its_rate_is_always_admitted() -> None:
    clock = Clock()
    bucket = Buckets(clock=clock).bucket(0, 50.0)
    for _ in range(1000):
        assert admitted(bucket, 25)
        clock.sleep(0.5)


def test_processes_share_a_file(tmp_path: Path) -> None:
    path, clock = tmp_path / "rates", Clock()
    Buckets.create(path)
    one, other = (Buckets(path, clock).bucket(3, 100.0) for _ in range(2))
    assert [admitted(each, 300) for each in (one, other, one, other, one)] == [True, True, True, True, False]
    assert Buckets(path, clock).bucket(4, 100.0).left_ms == 1000
    Buckets(path, clock).fill(3)
    assert one.left_ms == 1000
    assert path.stat().st_mode & 0o077 == 0
    with pytest.raises(FileExistsError):
        Buckets.create(path)


def test_no_price_and_no_rate_overflows_a_word() -> None:
    clock = Clock()
    bucket = Buckets(clock=clock).bucket(0, 0.001)
    for _ in range(3):
        bucket.take(1e12)
    assert bucket.wait_s() == LONGEST_NS // NS_PER_S - BURST_S + 1
