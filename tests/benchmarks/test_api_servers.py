from pathlib import Path

import numpy as np
import pytest

from benchmarks.api_servers import Burst, burst_of, computed_capacity, limit_of, report
from benchmarks.load import Outcome
from benchmarks.stub_engine import StubEngine, picture_of
from service.contract.manifest import read_manifest
from service.link.messages import VERSION, Done, Drop, Hello, Row, Steps, Submit, encode, numbers_of
from service.processes.control import Version

OUTCOME = Outcome(1000.0, 0, 1.0, 2.0, 1.0, answers=2000, cpu_s=0.1)


def burst(answers_per_s: float, api_us: float, api_busy: float = 0.5, machine_busy: float = 0.5) -> Burst:
    return Burst(answers_per_s, api_us, 5.0, 1.0, 20.0, api_busy, machine_busy)


def test_processor_time_is_told_apart_by_who_used_it() -> None:
    spent = {"api": 2.0, "engine": 0.4, "python": 0.01, "genserve-fork": 0.03}
    measured = burst_of([OUTCOME, OUTCOME], spent, servers=2, seconds=2.0, cores=2)
    assert measured == pytest.approx((2000.0, 500.0, 100.0, 10.0, 50.0, 0.5, 2.64 / 4))


def test_capacity_is_computed_from_a_core_each() -> None:
    assert computed_capacity(4, 200.0) == 20_000


@pytest.mark.parametrize(
    ("api_busy", "machine_busy", "limit"),
    [(0.99, 0.95, "the machine"), (0.95, 0.6, "the API processes"), (0.5, 0.6, "neither")],
)
def test_what_limits(api_busy: float, machine_busy: float, limit: str) -> None:
    assert limit_of([burst(1.0, 1.0, api_busy, machine_busy)], 2).startswith(limit)


def test_the_goal_is_judged_only_where_each_process_has_a_core() -> None:
    bursts = {"1": [burst(1000.0, 100.0)] * 2, "2": [burst(1700.0, 105.0)] * 2}
    enough, few = ("\n".join(report(bursts, cores)) for cores in (5, 2))
    assert enough.endswith("goal at least 1.8: MISSED")
    assert "not to be judged on 2 cores" in few
    assert few.endswith("computed, not measured: with a core each they give 1.905 (1.905 to 1.905) x: met")
    assert few.count("computed, not measured") == 4
    assert "8 API processes with a core each, 76,190/s" in few


def test_the_stub_answers_every_row_with_a_picture_of_its_model() -> None:
    manifest, engine = read_manifest(Path("weights/quick-gan")), StubEngine()
    loaded = engine.load(Version(3, 0, "weights/quick-gan", manifest.model_dump_json()))
    assert (loaded.number, loaded.costs.encoder) == (3, None)
    assert engine.answers(encode([Hello(VERSION)])) == []
    rows = [Row(index, 1, 0, 1.0, 0) for index in (0, 1)]
    answers = engine.answers(
        encode([Submit(7, 9, 1e9, [Steps(b"")], rows), Drop(7), Submit(8, 9, 1e9, [Steps(b"")], rows[:1])])
    )
    done = [answer for answer in answers if isinstance(answer, Done)]
    assert [(each.key, each.index) for each in done] == [(7, 0), (7, 1), (8, 0)]
    assert len(done) == len(answers)
    channels, height, width = manifest.image_shape
    picture = numbers_of(done[0].result)
    assert picture.shape == (height, width, channels)
    assert picture.dtype == np.uint8
    assert done[0].result == picture_of(manifest)
