"""Bounds that hold across API processes: several gates with one file, in one process and in several."""

import selectors
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random
from subprocess import PIPE
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.admission.drain import DrainRate
from service.admission.gate import HEADROOM, NS_PER_MS, Gate, WorkRequest
from service.admission.shared import LaneLoad, SharedLoad
from service.errors import Overloaded, ShareExceeded, TooLate
from tests.service.admission import contender

ROOT = Path(__file__).parents[3]
GATES = 4
LARGEST_MS = 40.0


class Shared(NamedTuple):
    """A file of ``GATES`` processes."""

    loads: Sequence[SharedLoad]

    def gates(self, limit_ms: float = 100.0, client_share: float = 1.0, table_rows: int = 1000) -> list[Gate]:
        return [self.gate(load.view(0), limit_ms, client_share, table_rows) for load in self.loads]

    def gate(self, others: LaneLoad, limit_ms: float, client_share: float = 1.0, table_rows: int = 1000) -> Gate:
        return Gate(limit_ms, client_share, DrainRate(1000.0), table_rows, others)

    def admitted_ms(self) -> float:
        return sum(self.loads[0].admitted_ns(0)) / NS_PER_MS


@pytest.fixture
def shared(tmp_path: Path, fixed_places: None) -> Iterator[Shared]:
    SharedLoad.create(tmp_path / "load", GATES, 1).close()
    loads = [SharedLoad.open(tmp_path / "load", slot) for slot in range(GATES)]
    yield Shared(loads)
    for load in loads:
        load.close()


def priced(price_ms: float, client: str = "") -> WorkRequest:
    return WorkRequest(1, 1, price_ms, client)


def test_the_bound_holds_for_all_processes_together(shared: Shared) -> None:
    a, b, c, _ = shared.gates()
    a.admit(priced(40.0))
    b.admit(kept := priced(60.0))
    for gate in (a, b, c):
        with pytest.raises(Overloaded, match=r"0\.1 s of work are queued"):
            gate.admit(priced(0.1))
    b.release(kept)
    c.admit(priced(60.0))
    assert [gate.accepted_ms for gate in (a, b, c)] == [40.0, 0.0, 60.0]


def test_a_model_is_idle_when_it_is_in_all_processes(shared: Shared) -> None:
    a, b, _, _ = shared.gates()
    a.admit(small := priced(0.001))
    with pytest.raises(Overloaded):
        b.admit(priced(1000.0))
    a.release(small)
    b.admit(priced(1000.0))
    with pytest.raises(Overloaded):
        a.admit(priced(0.001))


def test_a_clients_share_holds_for_all_processes_together(shared: Shared) -> None:
    a, b, c, _ = shared.gates(client_share=0.5)
    a.admit(priced(30.0, "this"))
    b.admit(priced(20.0, "this"))
    for gate in (a, b, c):
        with pytest.raises(ShareExceeded, match=r"0\.05 s of your work"):
            gate.admit(priced(0.1, "this"))
    c.admit(priced(50.0, "other"))


def test_a_client_without_work_in_any_process_may_exceed_its_share_once(shared: Shared) -> None:
    a, b, _, _ = shared.gates(client_share=0.25)
    a.admit(priced(10.0, "this"))
    b.admit(dear := priced(60.0, "other"))
    with pytest.raises(ShareExceeded):
        a.admit(priced(1.0, "other"))
    b.release(dear)
    a.admit(priced(60.0, "other"))


def test_rows_of_other_processes_take_their_turns(shared: Shared) -> None:
    a, b, _, _ = shared.gates(limit_ms=1e9)
    a.admit(WorkRequest(rows=64, calls=1000, call_ms=1.0))
    b.admit(WorkRequest(rows=1, calls=4, call_ms=1.0, within_s=0.3 / HEADROOM))  # 4 calls of 65 rows
    for gate in (a, b):
        with pytest.raises(TooLate, match="64 s of work are queued"):
            gate.admit(WorkRequest(rows=1, calls=5, call_ms=1.0, within_s=0.3 / HEADROOM))
        assert gate.seconds_until_done(4, 1.0) == pytest.approx(4 * 65 / 1000)


@pytest.mark.parametrize(("table_rows", "fits"), [(46, True), (45, False)])  # an eighth is kept free
def test_rows_of_other_processes_fill_the_table(shared: Shared, table_rows: int, fits: bool) -> None:
    a, b, _, _ = shared.gates(1e9, 1.0, table_rows)
    a.admit(WorkRequest(rows=40, calls=1000, call_ms=1.0))
    short = WorkRequest(rows=1, calls=4, call_ms=1.0, within_s=1.0)
    if fits:
        b.admit(short)
    else:
        with pytest.raises(TooLate):
            b.admit(short)


def test_a_rejection_leaves_nothing_in_the_file(shared: Shared) -> None:
    a, b, _, _ = shared.gates()
    a.admit(first := priced(90.0))
    with pytest.raises(Overloaded):
        b.admit(priced(5.0), priced(6.0))
    assert shared.admitted_ms() == 90.0
    a.release(first)
    assert (shared.admitted_ms(), shared.loads[1].view(0).rows()) == (0, 0)


class EarlierReads(LaneLoad):
    """Gives a gate what ``read`` saw, one process at a time: time passes between its reads, and before it writes."""

    def __init__(self, load: SharedLoad, slot: int) -> None:
        self._load, self._view = load, load.view(0)
        self.unread = others = [each for each in range(GATES) if each != slot]
        self._others_slots, self._seen_ns = tuple(others), 0

    def read(self) -> None:
        self._seen_ns += self._load.admitted_ns(0)[self.unread.pop()]

    def begin(self) -> None:
        self.unread, self._seen_ns = list(self._others_slots), 0

    def admitted_ns(self) -> int:
        assert not self.unread
        return self._seen_ns

    def client_ns(self, client: str) -> int:
        return 0

    def count(self, client: str, price_ns: int, calls: int, rows: int) -> None:
        self._view.count(client, price_ns, calls, rows)


class Process:
    """An API process: each ``step`` is a read of one other process, an admission by what was read, or a release."""

    def __init__(self, shared: Shared, slot: int, limit_ms: float) -> None:
        self._reads = EarlierReads(shared.loads[slot], slot)
        self._gate = shared.gate(self._reads, limit_ms)
        self._inside: list[WorkRequest] = []

    def step(self, price_ms: float, releases: bool) -> None:
        if self._reads.unread:
            self._reads.read()
        elif releases and self._inside:
            self._gate.release(self._inside.pop())
        else:
            request = priced(price_ms)
            try:
                self._gate.admit(request)
                self._inside.append(request)
            except Overloaded:
                pass
            self._reads.begin()

    def end(self) -> None:
        while self._inside:
            self._gate.release(self._inside.pop())


@given(seed=st.integers(0, 2**32), eager=st.floats(0.5, 1))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_exceeds_the_bound_by_at_most_one_request_for_each_other_process(
    shared: Shared, seed: int, eager: float
) -> None:
    processes, order = [Process(shared, slot, 100.0) for slot in range(GATES)], Random(seed)
    for _ in range(300):
        order.choice(processes).step(order.uniform(10, LARGEST_MS), releases=order.random() > eager)
        assert shared.admitted_ms() <= 100.0 + (GATES - 1) * LARGEST_MS
    for process in processes:
        process.end()


def test_processes_that_admit_at_one_moment_exceed_the_bound_by_one_request_each(shared: Shared) -> None:
    """The worst case: what decision 22 accepts for a shared file without a lock."""
    processes = [Process(shared, slot, 100.0) for slot in range(GATES)]
    for _ in range(GATES):  # reads of the three others, then the admission
        for process in processes:
            process.step(100.0, releases=False)
    assert shared.admitted_ms() == 400.0


def stable(view: LaneLoad) -> tuple[int, ...] | None:
    """Work of all and of each client when two reads agree: numbers read one after another need not belong together."""

    def read() -> tuple[int, ...]:
        return view.admitted_ns(), *[view.client_ns(client) for client in contender.CLIENTS]

    first = read()
    return first if read() == first else None


def most_seen(view: LaneLoad, processes: Sequence[subprocess.Popen[str]]) -> list[int]:
    """The most work of all, and of each client, that is seen until every process has done its operations."""
    most = [0] * (1 + len(contender.CLIENTS))
    done, waiting = selectors.DefaultSelector(), len(processes)
    for process in processes:
        done.register(process.stdout, selectors.EVENT_READ)  # type: ignore[arg-type]
    while waiting:
        for _ in range(100):
            most = [max(pair) for pair in zip(most, stable(view) or most, strict=True)]
        for key, _ in done.select(0):
            done.unregister(key.fileobj)
            waiting -= 1
    return most


def test_bounds_hold_within_ten_percent_while_processes_compete(tmp_path: Path, fixed_places: None) -> None:
    """Requests of at most 2 % of the limit, and three processes that admit and release as fast as they can."""
    path, count = tmp_path / "load", 3
    SharedLoad.create(path, count + 1, 1).close()
    watcher = SharedLoad.open(path, count)
    view = watcher.view(0)
    command = [sys.executable, "-m", "tests.service.admission.contender", str(path)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen([*command, str(slot)], cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True))
            for slot in range(count)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        most = most_seen(view, processes)
        left = [process.stdout.readline().split() for process in processes if process.stdout is not None]
    limit_ns = contender.LIMIT_MS * NS_PER_MS
    assert 0.9 * limit_ns < most[0] <= 1.1 * limit_ns
    assert 0.9 < max(most[1:]) / (contender.CLIENT_SHARE * limit_ns) <= 1.1
    assert all(int(rejected) > 0 for _, rejected in left)
    assert [process.returncode for process in processes] == [0] * count
    assert (view.admitted_ns(), view.rows()) == (0, 0)
    watcher.close()


def test_a_number_is_written_and_read_in_one_piece(tmp_path: Path, fixed_places: None) -> None:
    """A reader sees the sum before a change or after it, never bytes of both."""
    path, price_ns = tmp_path / "load", 0x0102030405060708
    SharedLoad.create(path, 2, 1).close()
    script = (
        "import sys; from pathlib import Path; from service.admission.shared import SharedLoad\n"
        "view = SharedLoad.open(Path(sys.argv[1]), 0).view(0)\n"
        "for _ in range(100_000):\n"
        f"    view.count('a', {price_ns}, 1, 1); view.count('a', -{price_ns}, 1, -1)\n"
    )
    load = SharedLoad.open(path, 1)
    view, seen = load.view(0), set[int]()
    with subprocess.Popen([sys.executable, "-c", script, str(path)], cwd=ROOT) as writer:
        while writer.poll() is None:
            seen.update([view.admitted_ns() for _ in range(1000)])
    assert writer.returncode == 0
    assert seen == {0, price_ns}
    load.close()


def test_the_clients_of_all_processes_are_counted_once(shared: Shared) -> None:
    a, b, *_ = shared.gates()
    view = shared.loads[2].view(0)
    assert view.clients([], "own") == 0
    a.admit(priced(1.0, "a"))
    b.admit(priced(1.0, "a"))
    b.admit(priced(1.0, "b"))
    b.admit(priced(1.0, "own"))
    assert view.clients([], "own") == 2
    assert view.clients(["b", "c"], "own") == 3
