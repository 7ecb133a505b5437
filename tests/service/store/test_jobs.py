from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from service.errors import JobExpired, JobsFull, ServiceStopping, UnknownJob
from service.store.bounded import Bounds
from service.store.job import RECORD_BYTES, Job
from service.store.jobs import GONE_PER_JOB, JobStore
from tests.service.clock import Clock

Record = Job[None, None]


def make(id: str, client: str = "a", size: int = 0, created: int = 0) -> Record:
    return Job(id, client, None, created, size)


def store_of(most: int = 4, most_bytes: int = 1 << 20, keep_s: float = 10.0) -> tuple[JobStore[None, None], Clock]:
    clock = Clock()
    return JobStore(Bounds(most, most_bytes, keep_s), clock), clock


class Jobs(RuleBasedStateMachine):
    """Jobs come, grow, end, are forgotten, and time passes."""

    MOST, MOST_BYTES, KEEP_S = 4, 5 * RECORD_BYTES, 10.0

    def __init__(self) -> None:
        super().__init__()
        self.store, self.clock = store_of(self.MOST, self.MOST_BYTES, self.KEEP_S)
        self.open: list[Record] = []
        self.ended: list[tuple[Record, float]] = []
        self.count = 0

    @rule(size=st.integers(0, 2 * RECORD_BYTES))
    def add(self, size: int) -> None:
        self.count += 1
        record = make(str(self.count), size=size)
        if len(self.open) == self.MOST:
            with pytest.raises(JobsFull):
                self.store.add(record)
        else:
            self.store.add(record)
            self.open.append(record)

    @rule(data=st.data(), how=st.sampled_from(["succeed", "fail", "cancel"]), size=st.integers(0, RECORD_BYTES))
    def end(self, data: st.DataObject, how: str, size: int) -> None:
        if self.open:
            record = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            ends: dict[str, Callable[[], None]] = {
                "succeed": lambda: record.succeed(None, b"", size),
                "fail": lambda: record.fail(ServiceStopping()),
                "cancel": record.cancel,
            }
            ends[how]()
            self.ended.append((record, self.clock.now))

    @rule(data=st.data(), size=st.integers(0, RECORD_BYTES))
    def grow(self, data: st.DataObject, size: int) -> None:
        if self.open:
            self.open[data.draw(st.integers(0, len(self.open) - 1))].add_image(None, size)

    @rule(seconds=st.floats(0.0, 6.0))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def those_that_have_not_ended_are_there(self) -> None:
        for record in self.open:
            assert self.store.get(record.id) is record
        assert self.store.open == len(self.open)

    @invariant()
    def those_that_ended_last_are_kept_within_bounds(self) -> None:
        kept = self.ended[len(self.ended) - self.store.ended :]
        for record, ended_at in kept:
            assert self.store.get(record.id) is record
            assert self.clock.now < ended_at + self.KEEP_S
        for record, _ in self.ended[: len(self.ended) - len(kept)]:
            with pytest.raises(JobExpired):
                self.store.get(record.id)
        if kept:
            assert len(kept) + len(self.open) <= self.MOST
            assert self.store.size <= self.MOST_BYTES
        assert self.store.size == sum(record.size for record in (*self.open, *(record for record, _ in kept)))


Jobs.TestCase.settings = settings(max_examples=40, stateful_step_count=30)
TestJobs = Jobs.TestCase


def test_a_job_that_ended_expires_in_time() -> None:
    store, clock = store_of(keep_s=600.0)
    record = make("one")
    store.add(record)
    clock.now = 5000.0
    assert store.get("one") is record
    record.cancel()
    clock.now += 599.9
    assert store.get("one") is record
    clock.now += 0.2
    with pytest.raises(JobExpired, match=r"one has expired.*600 s"):
        store.get("one")
    with pytest.raises(UnknownJob):
        store.get("two")


def test_only_so_many_that_are_gone_are_remembered() -> None:
    store, _ = store_of(most=1)
    for number in range(GONE_PER_JOB + 2):
        record = make(str(number))
        store.add(record)
        record.cancel()
    with pytest.raises(UnknownJob):
        store.get("0")
    with pytest.raises(JobExpired):
        store.get("1")


def test_one_that_alone_is_too_large_is_not_kept() -> None:
    store, _ = store_of(most_bytes=RECORD_BYTES)
    record = make("large", size=1)
    store.add(record)
    record.succeed(None, b"", 0)
    with pytest.raises(JobExpired):
        store.get("large")
    store.remove("large")
    assert store.size == 0


@pytest.mark.parametrize("ended", [False, True])
def test_removing_ends_and_forgets_and_may_be_said_twice(ended: bool) -> None:
    store, _ = store_of()
    record = make("one")
    store.add(record)
    if ended:
        record.succeed(None, b"", 0)
    for _ in range(2):
        store.remove("one")
        assert record.done
        assert (store.open, store.ended, store.size) == (0, 0, 0)
        with pytest.raises(JobExpired):
            store.get("one")
    with pytest.raises(UnknownJob):
        store.remove("two")


def test_a_client_sees_its_own_jobs_the_latest_first() -> None:
    store, _ = store_of(most=8)
    records = [make(str(number), client="ab"[number % 2], created=number) for number in range(6)]
    for record in records:
        store.add(record)
    records[4].cancel()
    assert [record.id for record in store.of("a", 10)] == ["4", "2", "0"]
    assert [record.id for record in store.of("b", 2)] == ["5", "3"]
    assert store.of("c", 10) == []


def test_one_that_never_began_leaves_no_trace() -> None:
    store, _ = store_of()
    record = make("one")
    store.add(record)
    store.withdraw(record)
    assert store.open == 0
    with pytest.raises(UnknownJob):
        store.get("one")
    record.cancel()
    assert store.ended == 0


def test_stopping_ends_what_has_not_ended() -> None:
    store, _ = store_of()
    records = [make(str(number)) for number in range(3)]
    for record in records:
        store.add(record)
    records[0].succeed(None, b"", 0)
    store.stop()
    assert [record.state for record in records] == ["succeeded", "failed", "failed"]
    assert isinstance(records[1].error, ServiceStopping)
