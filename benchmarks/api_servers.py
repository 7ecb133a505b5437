"""What API processes cost and how they scale: one and two of them, in front of an engine that answers at once.

The services run side by side and are loaded in short bursts in turn; see ``benchmarks.stub_engine`` and
``benchmarks.bursts``. Every burst has two client processes, for one would be the limit of several API processes. The
processor time of API, engine and client is measured apart. Two API processes can give twice the answers only where
there are cores for all five processes; where there are not, the report says so, and what follows from the processor
time is labelled as computed.

    python -m benchmarks.api_servers                 a table, the goal, and benchmarks/results/api_servers.json
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from benchmarks.bursts import in_turn, quartiles, ratios, summary
from benchmarks.clients import closed_loop
from benchmarks.load import WARM_UP_S, Outcome
from benchmarks.process_tree import cpu_s_by_role
from benchmarks.report import verdict, write_record
from benchmarks.server import Service, service_process, some_models
from service.process import usable_cores

MODEL, CLIENTS, CONNECTIONS = "quick-gan", 2, 32
SERVERS, COMPUTED = (1, 2), (4, 8, 16)
GOAL = 1.8
#: From this share of what there is on, processor time is the limit.
LIMIT = 0.9


class Burst(NamedTuple):
    """What one burst measured: answers per second, processor microseconds per answer, and how busy the machine was.

    ``rest_us`` is of the supervisor and the fork server. ``api_busy`` and ``machine_busy`` are processor time over that
    of one core for each API process, and of all cores.
    """

    answers_per_s: float
    api_us: float
    engine_us: float
    rest_us: float
    client_us: float
    api_busy: float
    machine_busy: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds in turn (default 9)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of a burst (default 2)")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that running services are stopped too
    with ExitStack() as stack:
        weights = str(stack.enter_context(some_models(MODEL)))
        settings = {"weights_dir": weights, "engine": "processes", "max_queue_ms": "1e9", "client_share": "1"}
        measures = {
            str(servers): partial(
                measure,
                stack.enter_context(
                    service_process(module="benchmarks.stub_engine", api_servers=str(servers), **settings)
                ),
                servers,
                options.seconds,
            )
            for servers in SERVERS
        }
        bursts = in_turn(measures, options.rounds)
    lines = report(bursts, usable_cores())
    print("\n".join(lines))
    write_record("api_servers", clients=CLIENTS, connections=CONNECTIONS, bursts=bursts, report=lines)


def measure(service: Service, servers: int, seconds: float) -> Burst:
    """One burst from all clients."""
    before = cpu_s_by_role(service.pid)
    with ThreadPoolExecutor(CLIENTS) as pool:
        asking = [
            pool.submit(closed_loop, service.port, f"/generate/{MODEL}", {}, CONNECTIONS, seconds)
            for _ in range(CLIENTS)
        ]
        outcomes = [each.result() for each in asking]
    if any(outcome.failures for outcome in outcomes):
        raise RuntimeError(f"{sum(outcome.failures for outcome in outcomes)} responses were not 200")
    after = cpu_s_by_role(service.pid)
    spent = {role: after[role] - before[role] for role in after}
    return burst_of(outcomes, spent, servers, seconds + WARM_UP_S, usable_cores())


def burst_of(
    outcomes: Sequence[Outcome], spent_s: Mapping[str, float], servers: int, seconds: float, cores: int
) -> Burst:
    """The figures of a burst in which the service's processes used ``spent_s``, by their role."""
    answers = sum(outcome.answers for outcome in outcomes)
    client_s, all_s = sum(outcome.cpu_s for outcome in outcomes), sum(spent_s.values())
    api_s, engine_s = spent_s.get("api", 0.0), spent_s.get("engine", 0.0)
    return Burst(
        sum(outcome.answers_per_s for outcome in outcomes),
        1e6 * api_s / answers,
        1e6 * engine_s / answers,
        1e6 * (all_s - api_s - engine_s) / answers,
        1e6 * client_s / answers,
        api_s / (servers * seconds),
        (all_s + client_s) / (cores * seconds),
    )


def computed_capacity(servers: int, api_us: float) -> float:
    """Answers per second of API processes that use ``api_us`` for each and have a core each."""
    return servers * 1e6 / api_us


def limit_of(bursts: Sequence[Burst], cores: int) -> str:
    """What kept the answers from being more."""
    api, machine = (quartiles([getattr(each, name) for each in bursts])[1] for name in ("api_busy", "machine_busy"))
    if machine >= LIMIT:
        return f"the machine: its {cores} cores are {machine:.0%} busy, client included"
    if api >= LIMIT:
        return f"the API processes: {api:.0%} of a core each"
    text = f"the API processes use {api:.0%} of a core each, and service and client {machine:.0%} of the {cores} cores"
    return f"neither: {text}; the rest went to other programs or to waiting"


def report(bursts: Mapping[str, Sequence[Burst]], cores: int) -> list[str]:
    """Medians with quartiles, what limits, the computed capacity, and the goal, from bursts by number of processes."""
    lines = ["| API processes | answers per s | us per answer: API | engine (stub) | supervisor | client |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for name, each in bursts.items():
        per_s, *us = (summary(figures, 0) for figures in list(zip(*each, strict=True))[:5])
        lines.append(f"| {name} | {per_s} | {' | '.join(us)} |")
    lines += ["", *(f"{name}: limited by {limit_of(each, cores)}" for name, each in bursts.items()), ""]
    one_us, two_us = ([each.api_us for each in bursts[str(servers)]] for servers in SERVERS)
    two = quartiles(two_us)[1]
    lines += [
        f"computed, not measured: {servers} API processes with a core each, {computed_capacity(servers, two):,.0f}/s "
        f"({servers} x 1e6 / {two:.0f} us; engines and clients not counted)"
        for servers in COMPUTED
    ]
    scaled = ratios(*([each.answers_per_s for each in bursts[str(servers)]] for servers in reversed(SERVERS)))
    return [*lines, "", *_goal(scaled, [2 * ratio for ratio in ratios(one_us, two_us)], cores)]


def _goal(scaled: Sequence[float], computed: Sequence[float], cores: int) -> list[str]:
    needed = CLIENTS + max(SERVERS) + 1
    met, would = (verdict(quartiles(figures)[1] >= GOAL) for figures in (scaled, computed))
    lines = [f"two API processes give {summary(scaled)} x the answers of one, goal at least {GOAL:g}"]
    if cores >= needed:
        return [f"{lines[0]}: {met}"]
    lines[0] += f": not to be judged on {cores} cores, which {needed} processes share"
    return [*lines, f"computed, not measured: with a core each they give {summary(computed)} x: {would}"]


if __name__ == "__main__":
    main()
