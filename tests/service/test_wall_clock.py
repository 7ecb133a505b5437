"""The wall clock may jump by an hour: only stamps follow it, and what is kept in a file."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2] / "service"

#: All modules that read the wall clock, and what for.
STAMPS = {
    "api/dialects/openai.py": "`created` of an answer",
    "api/response/rendering.py": "`created` of an answer",
    "api/response/job_runner.py": "when a job was created",
    "logs.py": "the time of a line",
    "contract/signature.py": "when a manifest was signed",
    "store/shared/jobs.py": "when an ended job is forgotten: a time that outlives the process",
    "store/shared/keys.py": "when a kept answer is forgotten: likewise",
}


def reads_wall_clock(source: str) -> bool:
    names = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    return bool(names & {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.datetime.now"})


def test_only_stamps_follow_the_wall_clock() -> None:
    reading = {str(path.relative_to(ROOT)) for path in ROOT.rglob("*.py") if reads_wall_clock(path.read_text())}
    assert reading == {*STAMPS}


def test_what_reads_the_wall_clock_is_noticed() -> None:
    assert reads_wall_clock("import time\nends_at = time.time() + 5")
    assert not reads_wall_clock("import time\nends_at = time.monotonic() + 5")
