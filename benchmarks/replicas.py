"""One and two replicas behind HAProxy with the shipped configuration; what clients see when one is replaced or dies.

Each replica has a core of its own; clients, HAProxy and Redis share these cores with them. HAProxy makes a connection
to a replica for each request, as the configuration says. Both replicas run all the time: of two HAProxies, one knows
only the first of them. They are loaded in turn, in short bursts; figures are medians with quartiles.

Then requests come at random, at a third of the capacity of two replicas, and every answer is compared with the picture
of its seed. Each replica in turn is stopped with SIGTERM and started again. At last one is killed with SIGKILL.

    python -m benchmarks.replicas                tables, goals, and benchmarks/results/replicas.json; 4 minutes
    python -m benchmarks.replicas --quick        one round, no record; a minute

The exit code is 0 if all goals are met. It needs haproxy and redis-server: without, it says so and ends.
"""

import argparse
import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen

import uvloop

from benchmarks.bursts import Case, in_turn, ratios, summary
from benchmarks.checked_load import CheckedLoad, Sample, asks_of, counts, with_references
from benchmarks.clients import closed_loop
from benchmarks.machine import others_busy
from benchmarks.report import verdict, write_record
from benchmarks.server import UNBOUNDED, Service, free_port, ready_service, some_models
from service.process import cores

CONFIGURATION = Path("deploy/haproxy/haproxy.cfg")
ONE, TWO = "1 replica", "2 replicas"
CASES = (
    Case("quick-gan, n = 1, 64 connections", "/generate/quick-gan", {}, 64),
    Case("ddpm, 20 steps, n = 1, 16 connections", "/generate/ddpm", {"steps": 20}, 16, length=3.0),
)
ROUNDS, BURST_S = 5, 2.0
#: Of the load while replicas end: path, body, how many seeds, weight; and its share of the capacity.
MIX = (("/generate/quick-gan", dict[str, int](), 64, 4.0), ("/generate/ddpm", {"steps": 20}, 16, 1.0))
LOAD, CAPACITY_CONNECTIONS, CAPACITY_S = 1 / 3, 24, 4.0
#: Deterministic, because every answer is compared with a reference.
COMPARED = {"deterministic": "true", "max_bucket": "8"}
#: Seconds of load before, between and after; HAProxy asks a replica every second whether it is ready.
BETWEEN_S, START_S, DRAIN_S = 3.0, 30.0, 30.0


class Replica:
    """A service on a core and a port of its own, which can be stopped, killed and started again."""

    def __init__(self, core: int, port: int, settings: Mapping[str, str]) -> None:
        self.port, self._core, self._settings = port, core, settings
        self._running = ExitStack()
        self.service: Service | None = None

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        started = ready_service(str(self._core), port=str(self.port), **self._settings)
        self.service = self._running.enter_context(started)

    def settle(self) -> None:
        """Wait until it is idle."""
        assert self.service is not None
        self.service.settle()

    def stop(self) -> None:
        """Send SIGTERM, and wait until it has ended."""
        self._running.close()

    def kill(self) -> None:
        """End it at once: its other processes end with the first."""
        assert self.service is not None
        os.kill(self.service.pid, signal.SIGKILL)
        self._running.close()


class Burst(NamedTuple):
    """What a burst measured: answers per second, and latencies."""

    answers_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Ending:
    """What clients saw of the ends of replicas: all requests by outcome, and the longest wait for an answer.

    ``first_s`` and ``last_s``: seconds from the signal to the first and the last failure; None without.
    """

    signal: str
    requests_per_s: float
    outcomes: dict[str, int]
    longest_s: float
    reasons: list[str]
    first_s: float | None = None
    last_s: float | None = None


def main() -> int:
    """Measure, report and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"rounds of bursts in turn (default {ROUNDS})")
    parser.add_argument("--quick", action="store_true", help="one round, and no record")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that what runs is stopped too
    if missing := [name for name in ("haproxy", "redis-server") if command(name) is None]:
        print(f"skipped: no {' and no '.join(missing)} here; on Debian: apt-get install haproxy redis-server")
        return 0
    busy_before = others_busy()
    print(f"other programs use {busy_before:.0%} of the cores", flush=True)
    bursts = measure_bursts(1 if options.quick else options.rounds)
    print("\n".join(burst_table(bursts)), flush=True)
    endings = measure_endings()
    print("\n".join(["", *ending_table(endings), ""]))
    goals = judge(endings)
    print("\n".join(f"{text}: {verdict(met)}" for text, met in goals.items()))
    if not options.quick:
        about = {"others_busy": busy_before, "cases": CASES, "mix": MIX, "load": LOAD}
        write_record("replicas", **about, bursts=bursts, endings=endings, goals=goals)
    return 0 if all(goals.values()) else 1


def command(name: str) -> str | None:
    """The path of a program; Debian has haproxy in a folder of root's path."""
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")


def measure_bursts(rounds: int) -> dict[str, dict[str, list[Burst]]]:
    """The bursts of each case, by the number of replicas."""
    with running_replicas() as replicas, ExitStack() as stack:
        ports = [replica.port for replica in replicas]
        proxies = {
            ONE: stack.enter_context(balancer(ports[0], free_port())),
            TWO: stack.enter_context(balancer(*ports)),
        }
        return {
            case.name: in_turn({name: partial(burst, port, case) for name, port in proxies.items()}, rounds)
            for case in CASES
        }


def burst(port: int, case: Case) -> Burst:
    """One burst. Raises RuntimeError unless all answers are 200s."""
    outcome = closed_loop(port, case.path, case.body, case.connections, case.length * BURST_S)
    if outcome.failures:
        raise RuntimeError(f"{case.name}: {outcome.failures} responses were not 200")
    # Little's law: where all connections are answered together, a burst counts few, whole rounds of answers.
    return Burst(1000 * case.connections / outcome.mean_ms, outcome.p50_ms, outcome.p99_ms)


def measure_endings() -> list[Ending]:
    """A rolling replacement, and a kill."""
    with running_replicas(**COMPARED) as replicas, balancer(*(replica.port for replica in replicas)) as port:
        return uvloop.run(end_replicas(port, replicas))


async def end_replicas(port: int, replicas: Sequence[Replica]) -> list[Ending]:
    """Load the balancer, and end replicas behind it."""
    mix = [(weight, await with_references(port, asks_of(path, body, seeds))) for path, body, seeds, weight in MIX]
    rate = LOAD * await CheckedLoad(port, mix).capacity(CAPACITY_CONNECTIONS, CAPACITY_S)
    endings = []
    for number, ended in ((signal.SIGTERM, replicas), (signal.SIGKILL, replicas[:1])):
        load = CheckedLoad(port, mix)
        async with load.running(rate, DRAIN_S):
            await asyncio.sleep(BETWEEN_S)
            at = time.monotonic()
            for replica in ended:
                await asyncio.to_thread(replica.stop if number == signal.SIGTERM else replica.kill)
                await asyncio.sleep(BETWEEN_S)
                await asyncio.to_thread(replica.start)
                await asyncio.sleep(BETWEEN_S)
        endings.append(ending_of(number.name, rate, load.samples, at))
    return endings


def ending_of(name: str, rate: float, samples: Sequence[Sample], at: float) -> Ending:
    """What clients saw, of ``samples``; the first signal was sent at ``at``."""
    failed = [sample for sample in samples if sample.outcome != "right"]
    after_s = sorted(sample.answered_at - at for sample in failed)
    longest_s = max((sample.answered_at - sample.sent_at for sample in samples), default=0.0)
    reasons = sorted({sample.reason for sample in failed if sample.reason})
    first_s, last_s = (after_s[0], after_s[-1]) if after_s else (None, None)
    return Ending(name, rate, dict(counts(samples)), longest_s, reasons, first_s, last_s)


@contextmanager
def running_replicas(**settings: str) -> Iterator[list[Replica]]:
    """Two replicas that share a Redis server, each on a core of its own."""
    with ExitStack() as stack:
        weights = stack.enter_context(some_models("quick-gan", "ddpm"))
        shared = {"weights_dir": str(weights), "store": stack.enter_context(redis()), **settings, **UNBOUNDED}
        shared |= {"engine_threads": "1", "spare_engine": "false", "forwarded_allow_ips": "127.0.0.1"}
        own = cores()
        replicas = [Replica(own[number % len(own)], free_port(), shared) for number in range(2)]
        for replica in replicas:
            stack.callback(replica.stop)
            replica.start()
        for replica in replicas:
            replica.settle()
        yield replicas


@contextmanager
def redis() -> Iterator[str]:
    """A Redis server that keeps nothing, and its address."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="genserve-redis-") as folder:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--appendonly", "no"]
        with _process([str(command("redis-server")), *options]):
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def balancer(*replicas: int) -> Iterator[int]:
    """HAProxy with the shipped configuration in front of two ports, and its own port, once it answers for a replica."""
    port = free_port()
    names = ("GENSERVE_BIND", "GENSERVE_REPLICA_1", "GENSERVE_REPLICA_2")
    addresses = {name: f"127.0.0.1:{each}" for name, each in zip(names, (port, *replicas), strict=True)}
    with _process([str(command("haproxy")), "-db", "-f", str(CONFIGURATION)], addresses):
        _wait_until_ready(port)
        time.sleep(BETWEEN_S)  # it has asked each replica by then
        yield port


@contextmanager
def _process(start: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[None]:
    environment = os.environ | (environment or {})
    nothing = subprocess.DEVNULL
    with subprocess.Popen(start, env=environment, stdout=nothing, stderr=nothing) as process:
        try:
            yield
        finally:
            process.terminate()


def _wait_until_ready(port: int) -> None:
    give_up = time.monotonic() + START_S
    while True:
        try:
            with urlopen(f"http://127.0.0.1:{port}/health/ready"):
                return
        except (URLError, OSError):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.05)


def judge(endings: Sequence[Ending]) -> dict[str, bool]:
    """Whether each goal is met, by a text with its figure."""
    goals = {}
    for ending in endings:
        total, wrong = sum(ending.outcomes.values()), ending.outcomes.get("wrong", 0)
        failed = total - ending.outcomes.get("right", 0)
        goals[f"{ending.signal}: {wrong} wrong pictures of {total}, goal 0"] = wrong == 0 < total
        if ending.signal == signal.SIGTERM.name:
            goals[f"{ending.signal}: {failed} of {total} requests failed, goal 0"] = failed == 0 < total
    return goals


def burst_table(bursts: Mapping[str, Mapping[str, Sequence[Burst]]]) -> list[str]:
    """Medians and quartiles, and the ratios round by round."""
    lines = ["| | answers per s | p50, ms | p99, ms |", "| --- | --- | --- | --- |"]
    for case, by_name in bursts.items():
        for name, each in by_name.items():
            shown = [
                summary(figures, digits) for figures, digits in zip(zip(*each, strict=True), (0, 1, 1), strict=True)
            ]
            lines.append(f"| {case}: {name} | {' | '.join(shown)} |")
        pairs = zip(zip(*by_name[TWO], strict=True), zip(*by_name[ONE], strict=True), strict=True)
        lines.append(f"| {case}: 2 / 1 | {' | '.join(summary(ratios(two, one), 2) for two, one in pairs)} |")
    return lines


def ending_table(endings: Sequence[Ending]) -> list[str]:
    """What clients saw."""
    lines = ["| replicas end by | requests, per s | outcomes | failed, s after | longest wait, s |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for each in endings:
        outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in each.outcomes.items())
        span = "-" if each.first_s is None or each.last_s is None else f"{each.first_s:.2f} to {each.last_s:.2f}"
        total = sum(each.outcomes.values())
        lines.append(
            f"| {each.signal} | {total:,}, {each.requests_per_s:.0f} | {outcomes} | {span} | {each.longest_s:.2f} |"
        )
    return [*lines, *(f"{each.signal}: {reason}" for each in endings for reason in each.reasons[:3])]


if __name__ == "__main__":
    sys.exit(main())
