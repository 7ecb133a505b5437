"""Prompts for a folder of diffusers: the service against `pipe(...)` in line, and against batches of equal requests.

A folder of Stable Diffusion's shape with random weights, whose UNet has 19 million parameters at latents of 32 x 32.
Eight clients send a request after each answer: prompts that differ, 4, 20, 30 or 50 steps, with and without guidance.

    ours        the service with its default processes
    one         FastAPI around `pipe(...)`: one request at a time, in the order of arrival
    batches     the same, but a call takes all waiting requests with the steps and the guidance of the oldest

All run side by side and are loaded in turn; each has all cores. Before, they are asked for the same picture, which must
be the same. In each round the bare UNet is measured too, in the two ways in which it can use the cores: a loop on each
of them, as the service's threads are, and one loop with a torch thread for each. A row-step is one row of a call of the
UNet: a guided picture has two in each step.

    python -m benchmarks.prompts              tables, goals, and benchmarks/results/prompts.json; 12 minutes
    python -m benchmarks.prompts --quick      one round with a tiny UNet, no record; 2 minutes
"""

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.request import Request, urlopen

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.peers.running import OUR_ENVIRONMENT, Peer, running_peer
from benchmarks.prompt_clients import CLIENTS, GUIDANCE, SHORTEST, STEPS, Counts, Round, measure
from benchmarks.prompt_folder import SMALL, TINY, write_folder
from benchmarks.report import verdict, write_record
from benchmarks.scrape import scrape
from benchmarks.server import UNBOUNDED, running_service
from service.process import cores

MODEL = "prompts"
OURS, ONE, BATCHES = "ours", "one", "batches"
#: The most requests of one call, by peer.
PEERS = {ONE: 1, BATCHES: CLIENTS}
ROWS = (1, 2, 4, 8, 16)
GOAL_P99, GOAL_OF_ONE, GOAL_OF_BARE = 10.0, 1.3, 0.9
SAME_PICTURE = {"prompt": "a lighthouse", "steps": SHORTEST, "guidance_scale": 7.5, "seed": 2026}

#: Rows per second of a bare loop, by the rows of its calls.
Speeds = Mapping[int, float]


class Server(NamedTuple):
    """A running server: where it makes pictures, and what its UNet has computed."""

    port: int
    path: str
    computed: Callable[[], Counts]


class Bare(NamedTuple):
    """The bare UNet in both ways: a loop on each core, and one loop on all cores."""

    each: Speeds
    together: Speeds

    def best(self, rows: float) -> float:
        """Row-steps per second of the faster way at ``rows`` rows in a call."""
        return max(speed_at(self.each, rows), speed_at(self.together, rows))


class Plan(NamedTuple):
    """How long to measure: rounds, seconds that do not count, seconds that do, and seconds of each bare loop."""

    rounds: int
    warm_up_s: float
    seconds: float
    bare_s: float


FULL, QUICK = Plan(3, 3.0, 45.0, 1.0), Plan(1, 1.0, 6.0, 0.2)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round with a tiny UNet, no record")
    quick = parser.parse_args().quick
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that the running servers are stopped too
    shape, plan = (TINY, QUICK) if quick else (SMALL, FULL)
    with tempfile.TemporaryDirectory(prefix="genserve-prompts-") as scratch:
        folder = Path(scratch, MODEL)
        parameters = write_folder(folder, shape)
        print(f"a UNet of {parameters / 1e6:.1f} million parameters at latents of {shape.side} x {shape.side}")
        rounds, bare = contest(folder, plan)
    goals = judge(rounds, bare)
    report(rounds, bare, goals)
    if not quick:
        write_record(
            "prompts",
            unet_parameters=parameters,
            shape=shape._asdict(),
            clients=CLIENTS,
            steps=STEPS,
            guidance_scales=GUIDANCE,
            plan=plan._asdict(),
            goals=goals,
            rounds={name: [each._asdict() for each in own] for name, own in rounds.items()},
            bare_rows_per_s=[each._asdict() for each in bare],
        )


def contest(folder: Path, plan: Plan) -> tuple[dict[str, list[Round]], list[Bare]]:
    """The rounds of each server, and the bare loops of each round."""
    rounds: dict[str, list[Round]] = {name: [] for name in (OURS, *PEERS)}
    bare = []
    with ExitStack() as running:
        servers = {name: running.enter_context(serve(name, folder)) for name in rounds}
        check_same(servers)
        for number in range(plan.rounds):
            for name, (port, path, computed) in servers.items():
                found = asyncio.run(measure(port, path, computed, number, plan.warm_up_s, plan.seconds))
                rounds[name].append(found)
                print(f"round {number + 1}, {name:8} {line([found])}", flush=True)
            bare.append(Bare(loops(folder, plan.bare_s, together=False), loops(folder, plan.bare_s, together=True)))
    return rounds, bare


@contextmanager
def serve(name: str, folder: Path) -> Iterator[Server]:
    """Start the server ``name``; yields it once it is ready."""
    if name == OURS:
        with running_service(weights_dir=str(folder.parent), **UNBOUNDED) as port:
            yield Server(port, f"/generate/{folder.name}", partial(_our_counts, port, folder.name))
        return
    arguments = ("-m", "benchmarks.peers.pipeline_server", str(folder), str(PEERS[name]))
    all_cores = ",".join(map(str, cores()))
    with running_peer(Peer(name, arguments, environment=OUR_ENVIRONMENT), all_cores, 1, "shipped") as port:
        yield Server(port, "/generate", partial(_their_counts, port))


def check_same(servers: Mapping[str, Server]) -> None:
    """Raise RuntimeError unless all make the same picture, but for one grey level."""
    pictures = {name: picture(server) for name, server in servers.items()}
    for name, other in pictures.items():
        if (levels := np.abs(pictures[OURS] - other).max()) > 1:
            raise RuntimeError(f"the pictures of {OURS} and {name} differ by {levels} grey levels")


def picture(server: Server) -> NDArray[np.int16]:
    """The picture that all servers are asked for, (height, width, 3) int16."""
    asked = Request(f"http://127.0.0.1:{server.port}{server.path}", json.dumps(SAME_PICTURE).encode())
    asked.add_header("Content-Type", "application/json")
    with urlopen(asked) as answer:
        return np.asarray(Image.open(BytesIO(answer.read())).convert("RGB")).astype(np.int16)


def loops(folder: Path, seconds: float, *, together: bool) -> Speeds:
    """Rows per second of bare loops by rows in a call: one loop on all cores, or one for each core, added up."""
    command = [sys.executable, "-m", "benchmarks.unet_loop", str(folder), "--seconds", str(seconds), "--rows"]
    command += map(str, ROWS)
    starts = [[*command, "--threads", str(len(cores()))]]
    if not together:
        starts = [["taskset", "-c", str(core), *command, "--threads", "1"] for core in cores()]
    running = [subprocess.Popen(start, stdout=subprocess.PIPE, text=True) for start in starts]
    found = [json.loads(process.communicate()[0]) for process in running]
    return {rows: sum(each[str(rows)] for each in found) for rows in ROWS}


def speed_at(speeds: Speeds, rows: float) -> float:
    """Rows per second at any number of rows in a call: the time of a call is taken as linear between those measured."""
    sizes = sorted(speeds)
    call_s = float(np.interp(rows, sizes, [size / speeds[size] for size in sizes]))
    return min(max(rows, sizes[0]), sizes[-1]) / call_s


def judge(rounds: Mapping[str, Sequence[Round]], bare: Sequence[Bare]) -> dict[str, bool]:
    """Whether each goal was met, by a text with its figures: ratios round by round."""
    goals = {}
    for name in PEERS:
        times = [other.p99_ms / own.p99_ms for own, other in zip(rounds[OURS], rounds[name], strict=True)]
        goals[f"p99 of {SHORTEST} steps {spread(times)} x lower than {name}'s, goal {GOAL_P99:g}"] = (
            median(times) >= GOAL_P99
        )
    speed = [own.row_steps_per_s / other.row_steps_per_s for own, other in zip(rounds[OURS], rounds[ONE], strict=True)]
    gain = [speed_at(each.each, own.rows_per_call) / each.each[1] for own, each in zip(rounds[OURS], bare, strict=True)]
    text = f"row-steps/s {spread(speed)} x {ONE}'s, goal {GOAL_OF_ONE:g} where a call gains; it gains {spread(gain)} x"
    goals[text] = median(speed) >= GOAL_OF_ONE
    share = [own.row_steps_per_s / each.best(own.rows_per_call) for own, each in zip(rounds[OURS], bare, strict=True)]
    goals[f"row-steps/s {spread(share)} of the bare UNet's at equal rows, goal {GOAL_OF_BARE:g}"] = (
        median(share) >= GOAL_OF_BARE
    )
    return goals


def report(rounds: Mapping[str, Sequence[Round]], bare: Sequence[Bare], goals: Mapping[str, bool]) -> None:
    """Print the tables and the goals."""
    print(f"\n{'':18}p50 of {SHORTEST} steps, p99 (ms); row-steps/s; rows per call; answers, of {SHORTEST} steps")
    for name, own in rounds.items():
        print(f"{name:18}{line(own)}")
    print("\nthe bare UNet, row-steps/s by rows in a call:", *(f"{rows:>8}" for rows in ROWS))
    for name in Bare._fields:
        speeds = [median(getattr(each, name)[rows] for each in bare) for rows in ROWS]
        print(f"{name:45}", *(f"{speed:8.1f}" for speed in speeds), f"  gain {max(speeds) / speeds[0]:.2f}")
    for text, met in goals.items():
        print(f"{text}: {verdict(met)}")


def line(rounds: Sequence[Round]) -> str:
    """The medians of a server's rounds, with the least and the greatest in brackets where there are several."""
    p50_ms, p99_ms, short, answers, speed, rows = zip(*rounds, strict=True)
    times = f"{spread(p50_ms, 0)}, {spread(p99_ms, 0)}"
    return f"{times}; {spread(speed, 1)}; {spread(rows, 1)}; {sum(answers)}, {sum(short)}"


def spread(figures: Sequence[float], digits: int = 2) -> str:
    """The median, with the least and the greatest in brackets where there are several figures."""
    text = f"{median(figures):.{digits}f}"
    return f"{text} ({min(figures):.{digits}f} to {max(figures):.{digits}f})" if len(figures) > 1 else text


def _our_counts(port: int, model: str) -> Counts:
    metrics = scrape(port, model)
    return Counts(metrics["genserve_tick_rows_sum"], metrics["genserve_tick_rows_count"])


def _their_counts(port: int) -> Counts:
    with urlopen(f"http://127.0.0.1:{port}/counts") as answer:
        return Counts(**json.load(answer))


if __name__ == "__main__":
    main()
