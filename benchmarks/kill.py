"""Processes of the service die under load: what is lost, what is wrong, and how soon the next answer comes.

Engines: the quick GAN and the DDPM are asked in an open loop at half of the capacity of that mix, which a closed loop
measures first. Again and again, the engine that computes is killed with SIGKILL or stopped with SIGSTOP: once the next
spare has loaded, no more often than the service's budget of restarts allows, and not before all requests that the last
death could concern are answered (the service refuses a picture in whose forward pass two engines died). The service is
deterministic, so that every answer can be compared with the picture of its seed. The next answer counts from the death,
and is that to a request which was sent after it.

API processes: 32 connections ask two of them all the time, and one process is killed. Only its own connections break.

    python -m benchmarks.kill                     20 x SIGKILL, 10 x SIGSTOP; 10 minutes; benchmarks/results/kill.json
    python -m benchmarks.kill --quick             2 and 1; a minute, no record
    python -m benchmarks.kill --plant lost        the service loses rows ("wrong": changes them); is that noticed?

The exit code is 0 if all goals are met; with --plant, if the fault was noticed.
"""

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from signal import SIGKILL, SIGSTOP, Signals

import uvloop

from benchmarks.checked_load import (
    CheckedLoad,
    Outcome,
    Sample,
    asked,
    asks_of,
    counts,
    keep_asking,
    seconds_until_next,
    with_references,
)
from benchmarks.connection import Connection
from benchmarks.kill_faults import FAULTS, VARIABLE
from benchmarks.report import verdict, write_record
from benchmarks.server import Service, service_process, some_models
from benchmarks.service_state import engines_ended, owners, serving_engine, spare_ready
from service.supervision.restarts import RestartBudget

QUICK, SLOW = "quick-gan", "ddpm"
#: Of the mix: the path, the body, how many seeds, and the weight.
MIX = ((f"/generate/{QUICK}", dict[str, int](), 64, 4.0), (f"/generate/{SLOW}", {"steps": 20}, 16, 1.0))
LOAD, CAPACITY_CONNECTIONS, CAPACITY_S = 0.5, 24, 5.0
SETTINGS = {
    "engine": "processes",
    "deterministic": "true",
    "max_bucket": "8",
    "client_share": "1",  # all requests come from one address
    "access_log": "false",
}

#: Seconds without a sign of life after which the service kills an engine, and seconds until the next answer.
ENGINE_TIMEOUT_S, GOAL_S = 5.0, 3.0
GOALS_S = {SIGKILL.name: GOAL_S, SIGSTOP.name: ENGINE_TIMEOUT_S + GOAL_S}
KILLS, STOPS, QUICK_KILLS, QUICK_STOPS = 20, 10, 2, 1
#: Seconds of load before the first death and after the last one.
BEFORE_S, AFTER_S = 2.0, 3.0
#: Longest waits for the next answer after a death, and for answers when no more requests are sent.
NEXT_S, DRAIN_S = 60.0, 65.0
#: So long waits a request in a service with a planted fault.
PLANTED_TIMEOUT_S = 10.0

#: So many refusals are shown.
SHOWN = 5
CONNECTIONS, ASKING_S, NEW_CONNECTIONS = 32, 1.5, 8


@dataclass(frozen=True)
class Death:
    """The end of an engine by a signal, and the seconds until the next answer."""

    signal: str
    next_answer_s: float


@dataclass(frozen=True)
class Engines:
    """What engines' deaths did: ``outcomes`` of all requests, and seconds of the longest wait for an answer.

    ``ended``: the engine processes that ended by the service's log. ``refusals``: what came instead of pictures.
    """

    capacity_per_s: float
    requests_per_s: float
    deaths: list[Death]
    outcomes: dict[str, int]
    longest_s: float
    ended: int
    refusals: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Apis:
    """What the death of an API process did: its connections, those that broke, and outcomes of all others' requests."""

    owned: int
    broken: int
    others: int
    others_broken: int
    outcomes: dict[str, int]
    new_outcomes: dict[str, int] = field(default_factory=dict)


def main() -> int:
    """Measure, report, and judge."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=KILLS, help=f"engines killed with SIGKILL (default {KILLS})")
    parser.add_argument("--stops", type=int, default=STOPS, help=f"engines stopped with SIGSTOP (default {STOPS})")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_KILLS} and {QUICK_STOPS}, and no record")
    parser.add_argument("--plant", choices=FAULTS, help="a fault in the service, which has to be noticed; no record")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running service is stopped too
    few = options.quick or options.plant
    kills, stops = (QUICK_KILLS, QUICK_STOPS) if few else (options.kills, options.stops)
    if options.plant:
        return planted(options.plant, plan(kills, stops))
    engines, apis = measure_engines(plan(kills, stops)), measure_apis()
    goals = judge(engines, apis)
    print("\n".join([*report(engines, apis), "", *(f"{text}: {verdict(met)}" for text, met in goals.items())]))
    if not options.quick:
        write_record("kill", mix=MIX, load=LOAD, settings=SETTINGS, goals=goals, engines=engines, apis=apis)
    return 0 if all(goals.values()) else 1


def plan(kills: int, stops: int) -> list[Signals]:
    """The signals in the order of the deaths, evenly mixed."""
    due = [((each + 0.5) / kills, SIGKILL) for each in range(kills)]
    due += [((each + 0.5) / stops, SIGSTOP) for each in range(stops)]
    return [number for _, number in sorted(due)]


def planted(fault: str, signals: Sequence[Signals]) -> int:
    """Whether the faulty service is found out: 0 if so, as an exit code."""
    os.environ[VARIABLE] = fault
    settings = {"request_timeout_s": str(PLANTED_TIMEOUT_S)}
    outcomes = measure_engines(signals, "benchmarks.kill_faults", settings).outcomes
    bad = {outcome: count for outcome, count in outcomes.items() if outcome != "right"}
    print(f"the planted fault ({fault}) was {'noticed' if bad else 'NOT NOTICED'}: {outcomes}")
    return 0 if bad else 1


def measure_engines(signals: Sequence[Signals], module: str = "service", more: dict[str, str] | None = None) -> Engines:
    """The engines' deaths, on a fresh service."""
    settings = SETTINGS | {"engine_timeout_s": str(ENGINE_TIMEOUT_S)} | (more or {})
    with (
        some_models(QUICK, SLOW) as weights,
        service_process(module=module, weights_dir=str(weights), **settings) as service,
    ):
        return uvloop.run(kill_engines(service, signals))


def measure_apis() -> Apis:
    """The death of an API process, on a fresh service."""
    with (
        some_models(QUICK) as weights,
        service_process(weights_dir=str(weights), api_servers="2", **SETTINGS) as service,
    ):
        return uvloop.run(kill_an_api(service))


async def kill_engines(service: Service, signals: Sequence[Signals]) -> Engines:
    """Load the service, and end its engines."""
    mix = []
    for path, body, seeds, weight in MIX:
        mix.append((weight, await with_references(service.port, asks_of(path, body, seeds))))
    load = CheckedLoad(service.port, mix)
    capacity_per_s = await load.capacity(CAPACITY_CONNECTIONS, CAPACITY_S)
    requests_per_s = LOAD * capacity_per_s
    print(f"capacity {capacity_per_s:.0f} requests/s, load {requests_per_s:.0f}", flush=True)
    died: list[float] = []
    deaths: list[Death] = []
    async with load.running(requests_per_s, DRAIN_S):
        await asyncio.sleep(BEFORE_S)
        for number in signals:
            await spare_ready(service)
            await load.answered(died[-1] if died else 0.0)
            await asyncio.sleep(earliest(died, RestartBudget()) - time.monotonic())
            deaths.append(await end_engine(service, load, number))
            died.append(time.monotonic())
            print(f"{number.name}: next answer after {deaths[-1].next_answer_s:.2f} s", flush=True)
        await asyncio.sleep(AFTER_S)
    longest_s = max(sample.answered_at - sample.sent_at for sample in load.samples)
    refusals = [sample.reason for sample in load.samples if sample.reason]
    ended = engines_ended(service.log.read_text())
    return Engines(capacity_per_s, requests_per_s, deaths, dict(counts(load.samples)), longest_s, ended, refusals)


def earliest(died: Sequence[float], budget: RestartBudget) -> float:
    """When the next engine may die without the service ending; ``died``: times of the deaths so far, or a bit later."""
    if len(died) < budget.most - 1:
        return float("-inf")
    return died[1 - budget.most] + budget.within_s + 1.0


async def end_engine(service: Service, load: CheckedLoad, number: Signals) -> Death:
    """Send the engine that computes a signal, and wait for the next answer."""
    before, at = len(load.samples), time.monotonic()
    os.kill(serving_engine(service.log.read_text()), number)
    while (next_s := seconds_until_next(load.samples[before:], at)) > NEXT_S and time.monotonic() < at + NEXT_S:
        await asyncio.sleep(0.05)
    return Death(number.name, next_s)


async def kill_an_api(service: Service) -> Apis:
    """Kill one of two API processes while connections to both ask."""
    (path, body, seeds, _), *_ = MIX
    asks = await with_references(service.port, asks_of(path, body, seeds))
    connections = [await Connection.open(service.port) for _ in range(CONNECTIONS)]
    await asyncio.gather(*(connection.ask(asks[0].request) for connection in connections))  # all are accepted then
    victim = service.named("api")["api-0"]
    owned = owners(victim, service.port, [connection.local_port for connection in connections])
    stop = asyncio.Event()
    asking = [asyncio.create_task(keep_asking(connection, asks, stop)) for connection in connections]
    await asyncio.sleep(ASKING_S)
    os.kill(victim, SIGKILL)
    new = [await asked(await Connection.open(service.port), asks[0], time.monotonic()) for _ in range(NEW_CONNECTIONS)]
    await asyncio.sleep(ASKING_S)
    stop.set()
    samples = dict(zip((each.local_port for each in connections), await asyncio.gather(*asking), strict=True))
    for connection in connections:
        connection.close()
    return fate_of(owned, samples, new)


def fate_of(owned: set[int], samples: dict[int, list[Sample]], new: Sequence[Sample]) -> Apis:
    """The figures from the ports of the killed process's connections, and the samples of all by port."""
    broken = {port for port, each in samples.items() if counts(each)["broken"]}
    others = [sample for port, each in samples.items() if port not in owned for sample in each]
    return Apis(
        len(owned),
        len(broken & owned),
        len(samples) - len(owned),
        len(broken - owned),
        dict(counts(others)),
        dict(counts(new)),
    )


def judge(engines: Engines, apis: Apis) -> dict[str, bool]:
    """Whether each goal is met, by a text with its figure."""
    wrong, right = (engines.outcomes.get(each, 0) for each in _outcomes("wrong", "right"))
    failed = sum(engines.outcomes.values()) - wrong - right
    goals = {
        f"{failed} failed of {failed + wrong + right} requests, goal 0": failed == 0 and right > 0,
        f"{wrong} wrong pictures, goal 0": wrong == 0,
        f"{engines.ended} engines ended, goal {len(engines.deaths)}": engines.ended == len(engines.deaths),
    }
    for name, goal_s in GOALS_S.items():
        waits = [death.next_answer_s for death in engines.deaths if death.signal == name]
        longest = max(waits, default=0.0)
        goals[f"next answer after {name}: {longest:.2f} s at most, goal {goal_s:g}"] = longest <= goal_s
    others_right = set(apis.outcomes) == {"right"} == set(apis.new_outcomes)
    text = f"an API process dies: {apis.others_broken} of {apis.others} connections to the other break, goal 0"
    goals[text] = apis.others_broken == 0 < apis.others and 0 < apis.owned == apis.broken and others_right
    return goals


def _outcomes(*names: Outcome) -> tuple[Outcome, ...]:
    return names


def report(engines: Engines, apis: Apis) -> list[str]:
    """The figures in lines."""
    lines = [f"requests: {engines.outcomes}; longest wait {engines.longest_s:.2f} s"]
    lines += [f"refused: {reason}" for reason in engines.refusals[:SHOWN]]
    for name in GOALS_S:
        waits = sorted(death.next_answer_s for death in engines.deaths if death.signal == name)
        if waits:
            middle = waits[len(waits) // 2]
            lines.append(f"{len(waits)} x {name}: next answer after {middle:.2f} s, {waits[-1]:.2f} s at most")
    lines.append(
        f"API process killed: {apis.broken} of its {apis.owned} connections broke, {apis.others_broken} others"
    )
    lines.append(f"requests to the other: {apis.outcomes}; on new connections: {apis.new_outcomes}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
