"""Our service against LitServe, mosec, BentoML and a plain FastAPI server: one model, one request, in turn.

A request is {"seed": 2026}, its answer a PNG of 28 x 28, checked to be the right one before anything is counted. Each
round starts every server anew, one at a time, and asks it in a closed loop:

    as shipped     the model as a user of the peer would load it; the server has one core, the client another
    alike          the same with the peers' model prepared as our service prepares its own: only the servers differ
    both cores     as shipped, server and client sharing all cores, every server with as many processes as suit it

A server's own file, beside this one, tells its settings and which others were tried.

    python -m benchmarks.peers                          a table, the goals, and benchmarks/results/peers.json
    python -m benchmarks.peers --only ours mosec        some of the servers, and no record
"""

import argparse
import signal
import subprocess
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict

from benchmarks.peers.contest import FAILURES, GOALS, PEERS, SCENARIOS, Scenario, measure, version
from benchmarks.peers.generator import MAX_BATCHES
from benchmarks.peers.goals import OURS, Case, Failure, Run, judge, sentence, summarise, table
from benchmarks.report import write_record

SERVERS = (OURS, *PEERS)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds in turn (default 5)")
    parser.add_argument("--seconds", type=float, default=2.5, help="how long each run counts (default 2.5)")
    parser.add_argument("--only", nargs="+", choices=SERVERS, default=SERVERS, help="these servers, and no record")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which passes through what ends the server under way
    absent = [name for name in options.only if name in PEERS and not PEERS[name].installed]
    results = list(contest(set(options.only) - set(absent), options.rounds, options.seconds))
    runs = [result for result in results if isinstance(result, Run)]
    failures = [result for result in results if isinstance(result, Failure)]
    print("", *table(summarise(runs)), "", *(sentence(judge(goal, runs)) for goal in GOALS), sep="\n")
    for name in absent:
        print(f"{name} could not be installed here: not measured")
    for failure in failures:
        print(f"failed: {failure.server}, {failure.scenario}, round {failure.round}: {failure.reason}")
    if options.only == SERVERS:
        record(runs, failures, absent, options.seconds)


def record(runs: Sequence[Run], failures: Sequence[Failure], absent: Sequence[str], seconds: float) -> None:
    """Write it all down."""
    peers = {
        name: {"version": version(peer), "settings": peer.settings}
        for name, peer in PEERS.items()
        if name not in absent
    }
    write_record(
        "peers",
        peers=peers,
        not_installed=absent,
        scenarios=SCENARIOS,
        max_batches=MAX_BATCHES,
        seconds=seconds,
        summaries=summarise(runs),
        goals=[{**asdict(reached := judge(goal, runs)), "met": reached.met} for goal in GOALS],
        runs=runs,
        failures=failures,
    )


def contest(servers: Collection[str], rounds: int, seconds: float) -> Iterator[Run | Failure]:
    """Every server in every scenario, round after round; each round begins with another server."""
    for number in range(1, rounds + 1):
        for scenario in SCENARIOS:
            first = (number - 1) % len(scenario.servers)
            for server in (*scenario.servers[first:], *scenario.servers[:first]):
                if server in servers:
                    yield from turn(number, scenario, server, seconds)


def turn(number: int, scenario: Scenario, server: str, seconds: float) -> Iterator[Run | Failure]:
    """One server, started and asked; told as it goes, for the whole takes long."""
    print(f"round {number}, {scenario.name}, {server}: ", end="", flush=True)
    try:
        outcomes = measure(scenario, server, seconds)
    except FAILURES as failure:
        # The system's errors would be told with this machine's paths.
        from_system = isinstance(failure, OSError | subprocess.SubprocessError)
        reason = type(failure).__name__ if from_system else str(failure)
        print("FAILED,", reason, *getattr(failure, "__notes__", []))
        yield Failure(number, scenario.name, server, reason)
    else:
        print(", ".join(f"{outcome.answers_per_s:.0f}/s at {count}" for count, outcome in outcomes.items()))
        for count, outcome in outcomes.items():
            yield Run(number, Case(scenario.name, server, count), outcome)


if __name__ == "__main__":
    main()
