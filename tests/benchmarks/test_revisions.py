import subprocess
from pathlib import Path

import pytest

from benchmarks.bursts import Burst
from benchmarks.revisions import Ratios, checked_out


def test_a_round_is_this_tree_over_the_other() -> None:
    ratios = Ratios.of([Burst(110.0, 450.0, 1.0)], [Burst(100.0, 500.0, 2.0)])
    assert (ratios.answers, ratios.cpu) == ([1.1], [0.9])


def test_the_other_tree_is_there_until_it_was_measured() -> None:
    with checked_out("HEAD") as tree:
        assert (tree / "pyproject.toml").exists()
    assert not tree.exists()
    assert str(tree) not in subprocess.run(["git", "worktree", "list"], capture_output=True, text=True).stdout


def test_a_revision_that_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError), checked_out("no-such-revision"):
        pass
