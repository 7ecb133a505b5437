"""A discrete-event simulation of replicas: API processes, engines and cores, with requests that a balancer hands out.

An API process works in turns of its event loop: a turn takes all that has arrived, requests and results, and costs so
much for the turn and so much for each. An engine thread works in ticks: a tick takes ready rows, as many as the bucket
allows or this thread's share of them, and does one step of each; rows join and leave at any tick. Threads that are busy
share the cores of their replica evenly (processor sharing), so a replica may have more threads than cores.

Everything is determined by the arguments. Not simulated: the global interpreter lock, refusals, memory, the network.
"""

import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from benchmarks.capacity.cores import Clock, Cores
from benchmarks.open_loop import Arrival


class Kind(NamedTuple):
    """A kind of request: forward-pass rows (a guided picture has two) and steps of each."""

    rows: int = 1
    steps: int = 1


@dataclass(frozen=True)
class Costs:
    """Processor seconds of a service.

    ``tick_s``: of a tick, by its rows; linear in between and beyond. ``bucket``: the most rows of a tick. A turn of an
    API process's event loop costs ``api_turn_s``, and each request ``api_request_s`` more, half of it for its answer.
    ``transit_s``: what else a request waits, for wake-ups and the network.
    """

    tick_s: Mapping[float, float]
    bucket: int
    api_turn_s: float = 0.0
    api_request_s: float = 0.0
    transit_s: float = 0.0

    def tick(self, rows: float) -> float:
        """Seconds of a tick of ``rows`` rows."""
        sizes = sorted(self.tick_s)
        if len(sizes) == 1 or rows <= sizes[0]:
            return self.tick_s[sizes[0]] * max(1.0, rows / sizes[0])
        high = min(max(bisect_left(sizes, rows), 1), len(sizes) - 1)
        low_s, high_s = self.tick_s[sizes[high - 1]], self.tick_s[sizes[high]]
        return low_s + (high_s - low_s) * (rows - sizes[high - 1]) / (sizes[high] - sizes[high - 1])

    def row_s(self) -> float:
        """Seconds of one row of a full tick."""
        return self.tick(self.bucket) / self.bucket

    def work_s(self, kind: Kind) -> float:
        """Predicted seconds of an engine for a request."""
        return kind.rows * kind.steps * self.row_s()


@dataclass(frozen=True)
class Shape:
    """The processes of a replica, and the cores that they share; ``gpu``: its engines use no core."""

    apis: int = 1
    engines: int = 1
    threads: int = 1
    cores: float = math.inf
    gpu: bool = False

    @property
    def core_count(self) -> float:
        """``cores``, or one for each thread where they are not limited."""
        threads = self.apis + (0 if self.gpu else self.engines * self.threads)
        return min(self.cores, threads)


@dataclass(slots=True)
class Request:
    """A request under way; ``left`` are its rows that are not done."""

    kind: int
    rows: int
    steps: int
    arrived: float
    work_s: float
    left: int = 0


@dataclass(slots=True)
class Row:
    """One row, and the steps that it still needs."""

    request: Request
    steps: int


class Engine:
    """The threads of one device, which serve one model; ``finished`` gets the requests that a tick completed."""

    def __init__(self, cores: Cores, costs: Costs, threads: int, finished: Callable[[list[Request]], None]) -> None:
        self._cores, self._bucket, self._free, self._finished = cores, costs.bucket, threads, finished
        self._tick_s = [costs.tick(rows) for rows in range(costs.bucket + 1)]
        self._ready: deque[Row] = deque()
        self.work_s, self.ticks, self.row_steps = 0.0, 0, 0

    def put(self, request: Request) -> None:
        """Queue the rows of a request; ``start`` has idle threads claim them."""
        self.work_s += request.work_s
        request.left = request.rows
        self._ready.extend(Row(request, request.steps) for _ in range(request.rows))

    def start(self) -> None:
        """Give ready rows to idle threads, in even shares."""
        while self._free and self._ready:
            count = min(self._bucket, math.ceil(len(self._ready) / self._free))
            rows = [self._ready.popleft() for _ in range(count)]
            self._free -= 1
            self.ticks += 1
            self.row_steps += count
            self._cores.work(self._tick_s[count], partial(self._end, rows))

    def _end(self, rows: list[Row]) -> None:
        self._free += 1
        done = []
        for row in rows:
            row.steps -= 1
            if row.steps:
                self._ready.append(row)
                continue
            row.request.left -= 1
            if not row.request.left:
                self.work_s -= row.request.work_s
                done.append(row.request)
        self.start()
        if done:
            self._finished(done)


class Api:
    """An API process: ``admit`` gets the requests of a turn at its end, ``answered`` those whose answers were sent."""

    def __init__(
        self,
        cores: Cores,
        costs: Costs,
        admit: Callable[[list[Request]], None],
        answered: Callable[[Request], None],
    ) -> None:
        self._cores, self._turn_s, self._event_s = cores, costs.api_turn_s, costs.api_request_s / 2
        self._admit, self._answered = admit, answered
        self._new: list[Request] = []
        self._done: list[Request] = []
        self._busy = False

    def take(self, request: Request) -> None:
        """A request has arrived."""
        self._new.append(request)
        self._turn()

    def deliver(self, requests: Iterable[Request]) -> None:
        """Their rows are done."""
        self._done += requests
        self._turn()

    def _turn(self) -> None:
        if self._busy or not (self._new or self._done):
            return
        new, done, self._new, self._done, self._busy = self._new, self._done, [], [], True
        seconds = self._turn_s + self._event_s * (len(new) + len(done))
        self._cores.work(seconds, partial(self._end, new, done))

    def _end(self, new: list[Request], done: list[Request]) -> None:
        self._busy = False
        if new:
            self._admit(new)
        for request in done:
            self._answered(request)
        self._turn()


class Replica:
    """A whole service; ``answered`` is called with each request that was answered."""

    def __init__(
        self, clock: Clock, shape: Shape, costs: Costs, answered: Callable[[Request], None], chance: random.Random
    ) -> None:
        self.clock, self._chance, self._told = clock, chance, answered
        self.cores, self.gpus = Cores(clock, shape.cores), Cores(clock, math.inf)
        devices = self.gpus if shape.gpu else self.cores
        self.engines = [Engine(devices, costs, shape.threads, self._deliver) for _ in range(shape.engines)]
        self._apis = [Api(self.cores, costs, self._admit, self._answered) for _ in range(shape.apis)]
        #: Requests that it has not answered, and their predicted seconds of an engine.
        self.open, self.work_s = 0, 0.0

    def take(self, request: Request) -> None:
        """A request has arrived, on a connection that some API process has."""
        self.open += 1
        self.work_s += request.work_s
        self._chance.choice(self._apis).take(request)

    def _admit(self, requests: list[Request]) -> None:
        for request in requests:
            min(self.engines, key=lambda engine: engine.work_s).put(request)
        for engine in self.engines:
            engine.start()

    def _deliver(self, requests: list[Request]) -> None:
        self._chance.choice(self._apis).deliver(requests)

    def _answered(self, request: Request) -> None:
        self.open -= 1
        self.work_s -= request.work_s
        self._told(request)


#: Chooses the replica of a request that arrives now.
Choose = Callable[[Sequence[Replica], random.Random], Replica]


def least_connections(replicas: Sequence[Replica], chance: random.Random) -> Replica:
    """The replica with the fewest requests that are not answered; any of several."""
    least = min(replica.open for replica in replicas)
    return chance.choice([replica for replica in replicas if replica.open == least])


@dataclass(frozen=True)
class Outcome:
    """What a simulation did, from ``since_s`` to ``ended_s``, the time of its last answer.

    ``latencies_ms``: by kind, of requests that arrived since then. ``utilisation``: used core seconds over all, of the
    whole time; ``gpu_utilisation`` likewise. ``rows_per_tick``: the mean of all engines.
    """

    arrived: int
    answered: int
    answers_per_s: float
    since_s: float
    ended_s: float
    utilisation: float
    gpu_utilisation: float
    rows_per_tick: float
    latencies_ms: list[list[float]]

    def all_ms(self) -> list[float]:
        """The latencies of all kinds."""
        return [each for latencies in self.latencies_ms for each in latencies]


@dataclass
class Fleet:
    """``replicas`` behind a balancer that ``choose`` stands for, and the load on them.

    With ``think_s`` each answer makes its user ask again, after a time that is exponential with that mean, until
    ``until_s``. Requests that arrive before ``since_s`` are not measured.
    """

    costs: Costs
    shape: Shape = Shape()
    replicas: int = 1
    kinds: Sequence[Kind] = (Kind(),)
    choose: Choose = least_connections
    think_s: float | None = None
    since_s: float = 0.0
    until_s: float = math.inf
    seed: int = 0

    def simulate(self, arrivals: Iterable[Arrival]) -> Outcome:
        """Have the fleet answer all ``arrivals``."""
        return _Run(self, arrivals).outcome()


class _Run:
    def __init__(self, fleet: Fleet, arrivals: Iterable[Arrival]) -> None:
        self._fleet, self._clock, self._chance = fleet, Clock(), random.Random(fleet.seed)
        self._replicas = [
            Replica(self._clock, fleet.shape, fleet.costs, self._answered, self._chance) for _ in range(fleet.replicas)
        ]
        self._work_s = [fleet.costs.work_s(kind) for kind in fleet.kinds]
        self._latencies_ms: list[list[float]] = [[] for _ in fleet.kinds]
        self._arrived = self._answers = self._answers_in_time = 0
        self._last_s = 0.0
        for due_s, kind in arrivals:
            self._clock.at(due_s, partial(self._arrive, kind))

    def outcome(self) -> Outcome:
        self._clock.run()
        fleet, ended_s = self._fleet, self._last_s
        used_s, gpu_s = (sum(getattr(each, name).used_s for each in self._replicas) for name in ("cores", "gpus"))
        all_s = max(ended_s, 1e-9) * fleet.replicas
        engines = [engine for replica in self._replicas for engine in replica.engines]
        ticks, row_steps = (sum(getattr(each, name) for each in engines) for name in ("ticks", "row_steps"))
        return Outcome(
            self._arrived,
            self._answers,
            self._answers_in_time / max(min(fleet.until_s, ended_s) - fleet.since_s, 1e-9),
            fleet.since_s,
            ended_s,
            used_s / (fleet.shape.core_count * all_s),
            gpu_s / (fleet.shape.engines * all_s),
            row_steps / max(1, ticks),
            self._latencies_ms,
        )

    def _arrive(self, kind: int) -> None:
        rows, steps = self._fleet.kinds[kind]
        self._arrived += 1
        request = Request(kind, rows, steps, self._clock.now, self._work_s[kind])
        self._fleet.choose(self._replicas, self._chance).take(request)

    def _answered(self, request: Request) -> None:
        now, fleet = self._clock.now, self._fleet
        self._answers += 1
        self._last_s = now
        self._answers_in_time += fleet.since_s <= now <= fleet.until_s
        if request.arrived >= fleet.since_s:
            self._latencies_ms[request.kind].append(1000 * (now - request.arrived + fleet.costs.transit_s))
        if fleet.think_s is not None:
            again = now + fleet.costs.transit_s + (self._chance.expovariate(1 / fleet.think_s) if fleet.think_s else 0)
            if again < fleet.until_s:
                self._clock.at(again, partial(self._arrive, request.kind))
