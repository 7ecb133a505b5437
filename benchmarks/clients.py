"""The clients: closed and open loops in processes of their own, which can be pinned to a core; and a single request."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPConnection
from math import inf

from benchmarks.load import Outcome
from benchmarks.open_loop import MOST_CONNECTIONS, OUTCOME, Kind, OpenOutcome

Body = Mapping[str, int | str]


@dataclass(frozen=True)
class OpenLoad:
    """An open load: requests per second, its length and seed, the wait for responses afterwards, and the deadline.

    Requests of the first ``warm_up_s`` seconds of its length do not count.
    """

    rate: float
    seconds: float
    seed: int
    drain_s: float
    deadline_ms: float = inf
    warm_up_s: float = 0.0


def allow_connections() -> None:
    """Raise the limit of open files for child processes to what an overloaded server and its client need."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def last_core() -> int:
    """The core of a client that must not share one with the server, which is on the first."""
    return max(os.sched_getaffinity(0))


def closed_loop_command(
    port: int, path: str, body: Body, connections: int, seconds: float, core: int | None = None
) -> list[str]:
    """The command that runs ``benchmarks.load``, pinned to ``core`` if given."""
    options = ["--port", str(port), "--path", path, "--body", json.dumps(body)]
    return _command(core, "benchmarks.load", [*options, "--connections", str(connections), "--seconds", str(seconds)])


def closed_loop(
    port: int, path: str, body: Body, connections: int, seconds: float, core: int | None = None, key: str = ""
) -> Outcome:
    """Run ``benchmarks.load`` to its end, with the API ``key`` if there is one."""
    printed = _run(closed_loop_command(port, path, body, connections, seconds, core), key)
    return Outcome(**json.loads(printed))


def open_loop(port: int, kinds: Iterable[Kind], load: OpenLoad, core: int | None = None, key: str = "") -> OpenOutcome:
    """Run ``benchmarks.open_loop`` to its end, with the API ``key`` if there is one."""
    options = ["--port", str(port), "--rate", str(load.rate), "--seconds", str(load.seconds), "--seed", str(load.seed)]
    options += ["--drain", str(load.drain_s), "--deadline-ms", str(load.deadline_ms), "--warm-up", str(load.warm_up_s)]
    for kind in kinds:
        options += ["--kind", kind.name, str(kind.weight), kind.path, kind.body]
    return OUTCOME.validate_json(_run(_command(core, "benchmarks.open_loop", options), key))


def ask_once(connection: HTTPConnection, path: str, body: Body) -> tuple[int, float]:
    """The status of one response, and its latency in milliseconds."""
    started = time.perf_counter()
    connection.request("POST", path, json.dumps(body))
    answer = connection.getresponse()
    answer.read()
    return answer.status, 1000 * (time.perf_counter() - started)


def _command(core: int | None, module: str, options: Sequence[str]) -> list[str]:
    return [*([] if core is None else ["taskset", "-c", str(core)]), sys.executable, "-m", module, *options]


def _run(command: Sequence[str], key: str) -> bytes:
    environment = os.environ | ({"GENSERVE_API_KEY": key} if key else {})
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, env=environment).stdout
