import mmap
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
import uvloop

from benchmarks.transport import Burst, Case, running, spread, table
from benchmarks.transport_ways import PIXELS, SLOT_BYTES, SLOTS, Done, Engine, Row, Submit


def answers(engine: Engine, *requests: tuple[int, int, int]) -> list[list[Done]]:
    """What an engine answers to requests: their number, rows and shape."""
    submits = [
        Submit(each, 1, 0.0, [], [Row(row, 0, shape, 0.0) for row in range(rows)]) for each, rows, shape in requests
    ]
    return [msgspec.msgpack.decode(frame, type=list[Done]) for frame in engine.answers(msgspec.msgpack.encode(submits))]


def test_a_tick_answers_with_one_frame() -> None:
    frames = answers(Engine(None), (1, 10, 0), (2, 10, 0))
    assert [len(frame) for frame in frames] == [16, 4]
    assert [(done.id, done.row) for frame in frames for done in frame] == [
        (id_, row) for id_ in (1, 2) for row in range(10)
    ]
    assert frames[0][0].data == PIXELS[0]


def test_only_large_results_go_through_shared_memory() -> None:
    slots = mmap.mmap(-1, SLOTS * SLOT_BYTES)
    (small,), (large,) = (answers(Engine(slots), (1, 1, shape))[0] for shape in (0, 1))
    assert (small.slot, small.data) == (None, PIXELS[0])
    assert large.slot is not None
    assert large.data == b""
    assert slots[large.slot * SLOT_BYTES :][:SLOT_BYTES] == PIXELS[1]


@pytest.mark.parametrize("name", ["Unix sockets", "Unix sockets, shared memory"])
def test_a_burst_over_the_link_as_built(name: str) -> None:
    with TemporaryDirectory() as folder, running(name, Path(folder)) as engine:
        burst = uvloop.run(engine.burst(Case("", 2, 3, 1), 0.1))
    assert min(burst) > 0


def test_a_table_has_medians_and_the_spread_of_both_processes() -> None:
    bursts = list(starmap(Burst, [(1, 2, 1000, 9), (2, 4, 3000, 7), (3, 6, 2000, 8)]))
    assert table(Case("a case", 1, 1, 0), {"a way": bursts}).splitlines()[-1] == (
        "| a way | 6.0 (4.5 to 7.5) | 2.0 + 4.0 | 2,000 | 8 |"
    )
    assert spread([1.0, 2.0, 3.0]) == "2.0 (1.5 to 2.5)"
