"""The judgement of each bench, on figures that are made up: it passes what is well, and notices a fault."""

import json
import random
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.attacks.watch import Demand
from benchmarks.reliability import access, alone, borrowed, fuzz, malformed, memory, series
from benchmarks.reliability.__main__ import BENCHES, planted_faults
from benchmarks.reliability.bench import NotRun, all_met, lines
from benchmarks.reliability.faults import FAULTS
from benchmarks.reliability.malformed_inputs import by_class
from benchmarks.reliability.memory import Look
from benchmarks.reliability.raw import Reply, reply_of
from benchmarks.reliability.scraping import series as series_of
from benchmarks.reliability.scraping import total
from service.access.keys import new_secret

PROBLEM = b"HTTP/1.1 422 Unprocessable Entity\r\ncontent-type: application/problem+json"


def missed(demands: Sequence[Demand]) -> list[str]:
    return [demand.text for demand in demands if not demand.met]


def problem(detail: str = "wrong", head: bytes = PROBLEM, status: int = 422, seconds: float = 0.1) -> Reply:
    return Reply(status, head, json.dumps({"detail": detail}).encode(), seconds)


def test_every_fault_belongs_to_a_bench() -> None:
    elsewhere = {borrowed.LOST, "no-drain"}
    assert set(planted_faults()) == set(FAULTS) | elsewhere
    assert {name for name, bench in BENCHES.items() if not bench.fault} == {"R1s", "R8", "R13"}


def test_no_demand_is_not_a_pass() -> None:
    assert not all_met([])
    assert all_met([Demand("one", 1, 1)])
    assert not all_met([Demand("one", 1, 1), Demand("two", 2, 1)])
    assert "MISSED" in lines("R0", [Demand("two", 2, 1)])[0]


def test_there_are_25_different_malformed_requests_of_each_class() -> None:
    sizes = {name: len(set(each)) for name, each in by_class().items()}
    assert len(sizes) == 8
    assert set(sizes.values()) == {25}


@pytest.mark.parametrize(
    "reply",
    [
        problem(status=200),
        problem(status=500),
        problem(status=0),
        problem(head=b"HTTP/1.1 422 Unprocessable Entity\r\ncontent-type: text/plain"),
        problem('Traceback (most recent call last): File "x.py"'),
        problem("not known: " + "abc" * 70),
    ],
)
def test_improper_answers_to_malformed_requests(reply: Reply) -> None:
    sent = b'POST / HTTP/1.1\r\n\r\n{"' + b"abc" * 100 + b'": 1}'
    assert len(missed(malformed.judge({"one": [sent, sent]}, {"one": [problem(), reply]}, ""))) == 1


def test_proper_answers_to_malformed_requests() -> None:
    assert missed(malformed.judge({"one": [b"abc"]}, {"one": [problem("abc")]}, "")) == []
    assert missed(malformed.judge({"one": [b"abc"]}, {"one": [problem("abc", seconds=1.1)]}, "")) == [
        "slowest answer, s"
    ]
    assert missed(malformed.judge({"one": [b"a"]}, {"one": [problem()]}, "Traceback")) == ["tracebacks in the log"]


@given(st.text("xyz", min_size=1, max_size=60), st.integers(1, 50))
def test_what_an_answer_repeats(text: str, length: int) -> None:
    body = json.dumps({"errors": [{"message": f"<{text}>"}]}).encode()
    assert malformed.repeats(f"GET /{text}".encode(), body, length) == (len(text) > length)


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True), st.integers())
def test_batches_have_each_seed_once(seeds: list[int], number: int) -> None:
    cut = alone.batches(seeds, random.Random(number))
    assert sorted(seed for batch in cut for seed in batch) == sorted(seeds)
    assert all(1 <= len(batch) <= alone.MOST for batch in cut)


def test_the_greatest_difference_has_no_overflow() -> None:
    black, white = np.zeros((1, 2, 2), np.uint8), np.full((1, 2, 2), 255, np.uint8)
    assert alone.worst_of({1: black, 2: white}, [(1, black), (2, white)]) == 0
    assert alone.worst_of({1: black, 2: white}, [(1, black), (2, black)]) == 255


def test_series_and_sums_of_an_exposition() -> None:
    text = '# HELP x\ngenserve_live_rows{model="a b"} 2\ngenserve_live_rows{model="c"} 1\ngenserve_queued_rows 4\n'
    assert len(series_of(text)) == 3
    assert total(text, "live_rows") == 3
    assert total(text, "live_rows", "queued_rows") == 7


def test_made_up_names_occur_once() -> None:
    made = series.made_up(80)
    assert len(set(made)) == 80


def looks(leak_mib_s: float, *, noise: float = 0.5, descriptors: int = 0) -> list[Look]:
    generator = random.Random(0)
    return [
        Look(second, 500 + leak_mib_s * second + generator.gauss(0, noise), 90 + descriptors * second // 100, 30)
        for second in range(600)
    ]


def test_a_leak_of_a_kib_for_each_request_is_noticed() -> None:
    requests_per_s = 30
    assert missed(memory.judge(looks(0.0), 10.0)) == []
    (text,) = missed(memory.judge(looks(requests_per_s / 1024), 10.0))
    assert text.startswith("MiB an hour")
    assert missed(memory.judge(looks(0.0, descriptors=1), 10.0)) == ["descriptors that came"]


def test_the_warm_up_does_not_count() -> None:
    steep = [Look(second, 10.0 * second, 90, 30) for second in range(150)]
    flat = [Look(second, 1500.0, 90, 30) for second in range(150, 600)]
    assert missed(memory.judge(steep + flat, 10.0)) == []


def test_a_soak_that_is_too_short_has_no_slope() -> None:
    with pytest.raises(NotRun):
        memory.judge(looks(0.0)[:5], 10.0)


@given(st.floats(-10, 10), st.floats(-10, 10))
def test_a_line_without_noise(slope: float, begin: float) -> None:
    found, half = memory.line([(float(x), begin + slope * x) for x in range(10)])
    assert found == pytest.approx(slope, abs=1e-6)
    assert half == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("code", "report", "sent", "failed"),
    [(0, "12 generated, 12 passed", 12, 0), (1, "12 generated, 10 passed", 12, 2), (1, "crash", 0, 1), (0, "", 0, 1)],
)
def test_counts_in_a_report_of_schemathesis(code: int, report: str, sent: int, failed: int) -> None:
    assert fuzz.counted(code, report)[:2] == (sent, failed)


def test_mutants_are_the_same_each_time_and_have_every_method() -> None:
    assert fuzz.mutants(3) == fuzz.mutants(3)
    assert len(fuzz.mutants(3)) == 3 * len(fuzz.METHODS)
    assert len(set(fuzz.mutants(20))) > 150


def test_a_503_needs_retry_after() -> None:
    assert reply_of(b"HTTP/1.1 503 x\r\na: b\r\n\r\n", 0).is_server_error
    assert not reply_of(b"HTTP/1.1 503 x\r\nRetry-After: 1\r\n\r\n", 0).is_server_error
    assert reply_of(b"HTTP/1.1 500 x\r\nretry-after: 1\r\n\r\n", 0).is_server_error
    assert reply_of(b"nonsense", 0).status == 0


@pytest.mark.parametrize("route", access.ROUTES)
def test_no_shape_presents_the_key(route: str) -> None:
    secret = new_secret()
    for shape in access.shapes(route, secret):
        headers = shape.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
        assert not {f"authorization: Bearer {secret}".encode(), f"x-api-key: {secret}".encode()} & {*headers}


def test_welch() -> None:
    assert access.welch([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 0
    assert access.welch([1.0, 1.0], [1.0, 1.0]) == 0
    assert access.welch([10.0, 11.0, 12.0], [1.0, 2.0, 3.0]) > access.MOST_T


def test_missed_goals_are_missed_demands() -> None:
    assert missed(borrowed.demands_of({"well": True, "badly": False})) == ["badly"]
