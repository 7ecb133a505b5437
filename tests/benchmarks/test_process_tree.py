import subprocess
from pathlib import Path

import pytest

from benchmarks.process_tree import Process, cpu_s, cpu_s_by_role, memory_mib, named, tree


def write_process(
    proc: Path, pid: int, name: str, children: str = "", ticks: tuple[int, ...] = (1, 2, 0, 0), pss: int = 0
) -> None:
    folder = proc / str(pid)
    (folder / "task" / str(pid)).mkdir(parents=True)
    (folder / "task" / str(pid) / "children").write_text(children)
    fields = ["S", *["0"] * 10, *map(str, ticks), *["0"] * 30]
    (folder / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}")
    (folder / "smaps_rollup").write_text(f"0-1 ---p [rollup]\nRss:  999 kB\nPss:  {pss} kB\nPss_Dirty:  1 kB\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    write_process(tmp_path, 10, "python", "11 ", (50, 50, 0, 0), pss=1024)
    write_process(tmp_path, 11, "genserve-fork", "12 13 14 ", (10, 0, 200, 90), pss=512)
    write_process(tmp_path, 12, "api-0", ticks=(100, 0, 0, 0), pss=512)
    write_process(tmp_path, 13, "api-11", ticks=(200, 0, 0, 0))
    write_process(tmp_path, 14, "engine-0", ticks=(300, 100, 0, 0))
    write_process(tmp_path, 99, "engine-9", ticks=(9999, 0, 0, 0), pss=9999)  # of another service
    return tmp_path


def test_all_processes_count_and_those_that_ended_with_their_parent(proc: Path) -> None:
    assert cpu_s(10, proc) == pytest.approx((100 + 300 + 100 + 200 + 400) / 100)


def test_processor_time_by_role(proc: Path) -> None:
    assert cpu_s_by_role(10, proc) == {"python": 1, "genserve-fork": 3, "api": 3, "engine": 4}


def test_memory_is_the_sum_of_the_shares(proc: Path) -> None:
    assert memory_mib(10, proc) == 2


def test_the_processes_of_a_role(proc: Path) -> None:
    assert named(10, "api", proc) == {"api-0": 12, "api-11": 13}


def test_a_name_may_look_like_the_fields_after_it(tmp_path: Path) -> None:
    write_process(tmp_path, 7, "a) S 1 (b", ticks=(1, 1, 1, 1))
    assert tree(7, tmp_path) == [Process(7, "a) S 1 (b", 0.04)]


def test_a_process_that_has_ended_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ProcessLookupError):
        tree(7, tmp_path)


def test_the_time_of_children_that_end_is_not_lost() -> None:
    """The shell's children burn time one after another; a sum over living processes would fall with each."""
    burn = 'i=0; while [ "$i" -lt 20000 ]; do i=$((i + 1)); done'
    with subprocess.Popen(
        ["sh", "-c", f"for each in 1 2 3; do ({burn}); done; echo done; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as shell:
        seen = [0.0]
        assert shell.stdout is not None
        while not seen[-1] or len(tree(shell.pid)) > 1:
            seen.append(cpu_s(shell.pid))
        assert shell.stdout.readline() == b"done\n"
        seen.append(cpu_s(shell.pid))
        shell.kill()
    assert seen == sorted(seen)
    assert seen[-1] > 0
