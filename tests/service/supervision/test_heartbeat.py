import stat
import struct
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.supervision import heartbeat as module
from service.supervision.heartbeat import Heartbeat

S = 1_000_000_000
numbers = st.integers(-(2**63), 2**63 - 1)


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> int:
        return int(self.now_s * S)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic_ns", clock)
    return clock


@pytest.fixture
def beats(tmp_path: Path) -> Iterator[Heartbeat]:
    """Three threads with up to 16 rows."""
    heartbeat = Heartbeat.create(tmp_path / "beat", 3, 16)
    yield heartbeat
    heartbeat.close()


def test_a_new_file_says_nothing(beats: Heartbeat, tmp_path: Path) -> None:
    assert (beats.silent_s(time.monotonic()), beats.longest_s) == (0.0, 0.0)
    assert beats.rows_inside() == []
    assert stat.S_IMODE((tmp_path / "beat").stat().st_mode) == 0o600


def test_another_process_reads_what_the_threads_write(beats: Heartbeat, tmp_path: Path) -> None:
    read = Heartbeat.open(tmp_path / "beat")
    assert (read.threads, read.most_rows) == (3, 16)
    beats.begin(0, [1, -2])
    beats.begin(2, array("q", [2**63 - 1]))
    assert read.rows_inside() == [1, -2, 2**63 - 1]
    read.close()


def test_the_thread_that_is_silent_longest_counts(beats: Heartbeat, clock: Clock) -> None:
    beats.begin(0, [1])
    clock.now_s += 2
    beats.idle(1)
    assert beats.silent_s(103) == pytest.approx(3)  # thread 2 has not started
    beats.end(0)
    assert beats.silent_s(103) == pytest.approx(1)
    clock.now_s += 5
    beats.idle(0)
    assert beats.silent_s(108) == pytest.approx(6)


def test_the_longest_piece_of_any_thread_counts_once_it_ends(beats: Heartbeat, clock: Clock) -> None:
    for thread, seconds in ((0, 0.25), (1, 3.0), (1, 0.5)):
        beats.begin(thread, [1])
        clock.now_s += seconds
        beats.end(thread)
    beats.begin(2)
    clock.now_s += 50
    beats.end(1)  # ends nothing
    assert beats.longest_s == pytest.approx(3)


def test_loading_has_an_allowance_and_is_no_measure_for_other_work(beats: Heartbeat, clock: Clock) -> None:
    beats.begin(0, (), allowed_s=30)
    assert beats.silent_s(130) == 0
    assert beats.silent_s(131) == pytest.approx(1)
    clock.now_s += 20
    beats.end(0)
    assert beats.silent_s(121) == pytest.approx(1)
    assert beats.longest_s == 0


def test_reset_keeps_only_the_longest(beats: Heartbeat, clock: Clock) -> None:
    beats.begin(0)
    clock.now_s += 2
    beats.end(0)
    beats.begin(0, [1], allowed_s=3)
    beats.reset()
    assert (beats.silent_s(1000), beats.rows_inside()) == (0, [])
    assert beats.longest_s == pytest.approx(2)


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.lists(numbers, max_size=16)))))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rows_are_inside_between_begin_and_end(beats: Heartbeat, calls: list[tuple[int, list[int] | None]]) -> None:
    beats.reset()
    inside: dict[int, list[int]] = {}
    for thread, rows in calls:
        if rows is None:
            beats.end(thread)
        else:
            beats.begin(thread, rows)
        inside[thread] = rows or []
    assert beats.rows_inside() == [row for thread in sorted(inside) for row in inside[thread]]


def test_rows_of_a_write_that_broke_off_are_not_inside(beats: Heartbeat) -> None:
    beats.begin(0, [1, 2])
    with pytest.raises(struct.error, match="integer"):
        beats.begin(0, [3, "x"])  # type: ignore[list-item]
    assert beats.rows_inside() == []


def test_an_array_of_other_numbers_is_refused(beats: Heartbeat) -> None:
    with pytest.raises(ValueError, match="different"):
        beats.begin(0, array("d", [1.0]))  # type: ignore[arg-type]
    assert beats.rows_inside() == []


def test_more_rows_than_fit_are_an_error(beats: Heartbeat) -> None:
    with pytest.raises(ValueError, match="holds 17 rows, at most 16 fit"):
        beats.begin(0, range(17))


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_behind_the_header_can_be_read(beats: Heartbeat, tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "beat"
    size = path.stat().st_size - 64
    words = data.draw(st.lists(numbers, min_size=size // 8, max_size=size // 8))
    with path.open("r+b") as file:
        file.seek(64)
        file.write(array("q", words).tobytes())
    now = time.monotonic()
    assert 0 <= beats.silent_s(now) <= now
    assert 0 <= beats.longest_s <= 2**33
    assert len(beats.rows_inside()) <= 3 * 16


@pytest.mark.parametrize(
    ("threads", "most_rows", "message"),
    [(0, 1, "threads is 0"), (257, 1, "threads is 257"), (1, -1, "most_rows is -1"), (1, 65_537, "most_rows is 65537")],
)
def test_sizes_out_of_range_are_refused(tmp_path: Path, threads: int, most_rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Heartbeat.create(tmp_path / "beat", threads, most_rows)
    assert not (tmp_path / "beat").exists()


@pytest.mark.parametrize("contents", [b"", b"short", b"\0" * 4096])
def test_another_file_is_refused(tmp_path: Path, contents: bytes) -> None:
    (tmp_path / "beat").write_bytes(contents)
    with pytest.raises(ValueError, match="not a heartbeat file"):
        Heartbeat.open(tmp_path / "beat")


def test_a_file_that_was_cut_is_refused(beats: Heartbeat, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    cut.write_bytes((tmp_path / "beat").read_bytes()[:-8])
    with pytest.raises(ValueError, match="not a heartbeat file"):
        Heartbeat.open(cut)


def test_an_existing_file_is_not_overwritten(beats: Heartbeat, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        Heartbeat.create(tmp_path / "beat", 3, 16)
