import signal

import pytest

from benchmarks import replicas
from benchmarks.checked_load import Sample
from benchmarks.replicas import CASES, ONE, TWO, Burst, Ending, burst_table, ending_of, ending_table, judge

RIGHT = Sample(10.0, 10.5, "right")
BROKEN = [Sample(11.0, 11.75, "broken"), Sample(11.0, 13.0, "refused", "503 no replica")]


def ending(name: str, **outcomes: int) -> Ending:
    return Ending(name, 40.0, outcomes, 1.0, [])


def test_failures_are_counted_from_the_signal() -> None:
    found = ending_of("SIGKILL", 40.0, [RIGHT, *BROKEN, RIGHT], at=11.25)
    assert found.outcomes == {"right": 2, "broken": 1, "refused": 1}
    assert (found.first_s, found.last_s, found.longest_s) == (0.5, 1.75, 2.0)
    assert found.reasons == ["503 no replica"]


def test_without_failures_there_is_no_time_of_one() -> None:
    found = ending_of("SIGTERM", 40.0, [RIGHT], at=0.0)
    assert (found.first_s, found.last_s) == (None, None)


@pytest.mark.parametrize(
    ("sigterm", "sigkill", "met"),
    [
        ({"right": 9}, {"right": 9, "broken": 3}, [True, True, True]),
        ({"right": 9, "broken": 1}, {"right": 9}, [True, False, True]),
        ({"right": 9, "wrong": 1}, {"right": 9, "wrong": 1}, [False, False, False]),
        ({}, {}, [False, False, False]),
    ],
)
def test_a_replacement_may_cost_no_request_and_no_end_may_cost_a_right_picture(
    sigterm: dict[str, int], sigkill: dict[str, int], met: list[bool]
) -> None:
    assert [*judge([ending("SIGTERM", **sigterm), ending("SIGKILL", **sigkill)]).values()] == met


def test_the_tables_have_a_line_for_each_number_of_replicas_their_ratio_and_each_signal() -> None:
    bursts = {case.name: {ONE: [Burst(10.0, 4.0, 8.0)], TWO: [Burst(15.0, 2.0, 8.0)]} for case in CASES}
    lines = burst_table(bursts)
    assert len(lines) == 2 + 3 * len(CASES)
    assert "2 / 1 | 1.50 (1.50 to 1.50) | 0.50" in lines[4]
    shown = ending_table([ending_of("SIGTERM", 40.0, [RIGHT], 0.0), ending_of("SIGKILL", 40.0, BROKEN, 11.0)])
    assert len(shown) == 2 + 2 + 1
    assert {line.count("|") for line in shown[:4]} == {6}


def test_without_haproxy_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("sys.argv", ["replicas"])
    monkeypatch.setattr(replicas, "command", lambda name: None if name == "haproxy" else name)
    try:
        assert replicas.main() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "no haproxy here" in capsys.readouterr().out
