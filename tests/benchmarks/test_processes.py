import pytest

from benchmarks.bursts import Burst
from benchmarks.processes import (
    CASES,
    GOALS,
    INLINE,
    LOADED,
    NO_SPARE,
    PINNED,
    PROCESSES,
    Start,
    burst_table,
    judge,
    ratios_to,
    start_table,
)

#: Every figure of the processes is twice that of the others, in both rounds.
BURSTS = {
    case.name: {name: [Burst(*(figure * (1 + (name == PROCESSES)) for figure in (100, 400, 1)))] * 2 for name in LOADED}
    for case in CASES
}


def starts(ready_s: float, more_mib: float) -> dict[str, list[Start]]:
    return {
        INLINE: [Start(3.0, 400.0), Start(3.0, 300.0), Start(3.0, 500.0)],
        PROCESSES: [Start(ready_s, 900.0)] * 3,
        NO_SPARE: [
            Start(ready_s, 400.0 + more_mib),
            Start(ready_s, 300.0 + more_mib),
            Start(ready_s, 500.0 + more_mib),
        ],
    }


def test_ratios_are_the_processes_over_another() -> None:
    bursts = {PROCESSES: [Burst(6.0, 9.0, 4.0)], PINNED: [Burst(2.0, 3.0, 5.0)]}
    assert ratios_to(PINNED, "answers_per_s", bursts) == [3]
    assert ratios_to(PINNED, "p50_ms", bursts) == [0.8]


def test_more_answers_are_within_the_goals_and_more_time_is_not() -> None:
    goals = judge(starts(5.0, 249.0), BURSTS)
    assert len(goals) == len(GOALS) + 2
    assert {text.split(" x ")[0].split(": ")[1].split(" ")[0]: met for text, met in goals.items() if " x " in text} == {
        "cpu_us": False,
        "answers_per_s": True,
        "p50_ms": False,
    }


@pytest.mark.parametrize(("ready_s", "more_mib", "met"), [(6.0, 250.0, [True, True]), (6.1, 251.0, [False, False])])
def test_a_start_has_goals_for_its_time_and_for_the_memory_without_a_spare(
    ready_s: float, more_mib: float, met: list[bool]
) -> None:
    goals = judge(starts(ready_s, more_mib), BURSTS)
    assert [met for text, met in goals.items() if " x " not in text] == met


def test_the_tables_have_a_line_for_each_contender_and_each_ratio() -> None:
    assert len(start_table(starts(5.0, 9.0))) == 2 + 3
    table = burst_table(BURSTS)
    assert len(table) == 2 + len(CASES) * (len(LOADED) + 2)
    assert {line.count("|") for line in table} == {5}
    assert f"{PROCESSES} / {INLINE} | 2.000" in table[5]
