"""How many replicas a load needs, by simulation: the fewest whose p99 is within a bound.

Costs on a CPU are measured. Those of a GPU are an assumption: a tick takes at least so many milliseconds, and a row
a fraction of a core's time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from benchmarks.capacity.costs import QUICK, TEXT, Case
from benchmarks.capacity.model import Costs, Fleet, Outcome, Shape
from benchmarks.load import p50_p99
from benchmarks.open_loop import Arrival, poisson

#: The two loads: requests per second of the quick GAN, and users of the text model.
REQUESTS_PER_S, USERS = 10_000.0, 1_000
#: Bounds of the p99.
QUICK_BOUND_MS, TEXT_BOUND_MS = 50.0, 5_000.0
#: Measured seconds of each simulation, after others that are not.
QUICK_S, QUICK_WARM_UP_S, TEXT_S, TEXT_WARM_UP_S = 2.0, 0.5, 60.0, 30.0
#: Largest tick of a GPU: the setting's default.
GPU_BUCKET = 64
#: More replicas, or API processes of one, are not tried.
MOST, MOST_APIS = 4096, 16


@dataclass(frozen=True)
class Assumed:
    """A GPU, and a user: all assumptions.

    ``least_ms``: of a tick; ``times``: how many cores compute as many rows per second in full ticks. ``think_s``: mean
    seconds between a user's answer and the next request.
    """

    least_ms: float = 1.0
    times: float = 300.0
    think_s: float = 10.0

    def on_gpu(self, costs: Costs) -> Costs:
        """The costs of a model on the GPU; those of API processes are as measured."""
        row_s = costs.row_s() / self.times
        ticks = {float(rows): self.least_ms / 1000 + rows * row_s for rows in (1, GPU_BUCKET)}
        return replace(costs, tick_s=ticks, bucket=GPU_BUCKET)


@dataclass(frozen=True)
class Need:
    """What a load needs, and the answers per second, latencies and utilisation of its cores and GPUs then."""

    load: str
    on: str
    replicas: int
    cores: int
    gpus: int
    per_s: float
    p50_ms: float
    p99_ms: float
    bound_ms: float
    utilisation: float
    gpu_utilisation: float


#: What a load makes of a fleet.
Load = Callable[[Fleet], Outcome]


def plan(quick: Costs, text: Costs, assumed: Assumed) -> list[Need]:
    """Both loads, on CPUs and on GPUs."""
    many, users = f"{REQUESTS_PER_S:,.0f} requests/s of {QUICK.model}", f"{USERS:,} users of {TEXT.model}, 20 steps"
    return [
        *_needs(many, QUICK, quick, requests, QUICK_BOUND_MS, assumed),
        *_needs(users, TEXT, text, partial(ask_again, think_s=assumed.think_s), TEXT_BOUND_MS, assumed),
    ]


def requests(fleet: Fleet) -> Outcome:
    """Requests at random times."""
    seconds = QUICK_WARM_UP_S + QUICK_S
    measured = replace(fleet, since_s=QUICK_WARM_UP_S, until_s=seconds)
    return measured.simulate(poisson(REQUESTS_PER_S, seconds, [1], 0))


def ask_again(fleet: Fleet, think_s: float) -> Outcome:
    """Users who think for a while after each answer; at first they ask one after another, within that time."""
    thinking = replace(fleet, think_s=think_s, since_s=TEXT_WARM_UP_S, until_s=TEXT_WARM_UP_S + TEXT_S)
    return thinking.simulate([Arrival(think_s * user / USERS, 0) for user in range(USERS)])


def fewest(
    fleet_of: Callable[[int], Fleet], load: Load, bound_ms: float, most: int = MOST
) -> tuple[Fleet, Outcome] | None:
    """The fleet of the least number whose p99 is within the bound, and its outcome; None if ``most`` are too few."""
    low, high, best = 0, 1, None
    while best is None or high - low > 1:
        number = high if best is None else (low + high) // 2
        fleet = fleet_of(number)
        outcome = load(fleet)
        if p50_p99(outcome.all_ms())[1] <= bound_ms:
            best, high = (fleet, outcome), number
        elif best is None and high == most:
            return None
        else:
            low, high = number, high if best else min(2 * number, most)
    return best


def fewest_gpus(case: Case, costs: Costs, load: Load, bound_ms: float) -> tuple[Fleet, Outcome] | None:
    """The fewest GPUs, each of a replica, with the fewest API processes for them."""
    for gpus in range(1, MOST + 1):
        fleet_of = partial(_gpu_fleet, case, costs, gpus)
        if (found := fewest(fleet_of, load, bound_ms, MOST_APIS)) is not None:
            return found
    return None


def _gpu_fleet(case: Case, costs: Costs, gpus: int, apis: int) -> Fleet:
    return Fleet(costs, Shape(apis=apis, gpu=True), gpus, [case.kind])


def _needs(name: str, case: Case, costs: Costs, load: Load, bound_ms: float, assumed: Assumed) -> list[Need]:
    on_cpu = fewest(lambda replicas: Fleet(costs, case.shape, replicas, [case.kind]), load, bound_ms)
    on_gpu = fewest_gpus(case, assumed.on_gpu(costs), load, bound_ms)
    return [_need(name, *found, bound_ms) for found in (on_cpu, on_gpu) if found is not None]


def _need(name: str, fleet: Fleet, outcome: Outcome, bound_ms: float) -> Need:
    shape, replicas = fleet.shape, fleet.replicas
    return Need(
        name,
        "GPUs" if shape.gpu else "CPUs",
        replicas,
        round(replicas * shape.core_count),
        replicas * shape.engines if shape.gpu else 0,
        outcome.answers_per_s,
        *p50_p99(outcome.all_ms()),
        bound_ms,
        outcome.utilisation,
        outcome.gpu_utilisation,
    )


def table(needs: Sequence[Need]) -> list[str]:
    """A line for each load and kind of machine."""
    lines = [
        "| load | on | replicas | cores | GPUs | requests/s | p50, p99, ms | bound of the p99 | cores and GPUs busy |"
    ]
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for each in needs:
        busy = f"{each.utilisation:.0%}" + (f", {each.gpu_utilisation:.0%}" if each.gpus else "")
        lines.append(
            f"| {each.load} | {each.on} | {each.replicas} | {each.cores} | {each.gpus or '-'} | {each.per_s:,.0f} "
            f"| {each.p50_ms:,.0f}, {each.p99_ms:,.0f} | {each.bound_ms:,.0f} | {busy} |"
        )
    return lines
