"""The idle service, all its processes together: seconds until ready, processor time, memory before and after some work.

Processor time and memory count from the moment when it is idle: with processes, its spare engine has loaded the models.
With three models, which the goals are for, and with all shipped models; starts alternate. Settings of the environment
apply, such as GENSERVE_ENGINE=inline; `benchmarks.processes` compares the two kinds of engine.

python -m benchmarks.rest                   prints a table, writes benchmarks/results/rest.json
"""

import argparse
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from benchmarks.clients import ask_once
from benchmarks.report import verdict, write_record
from benchmarks.server import WEIGHTS, Service, service_process, some_models

IDLE_S = 20.0
REQUESTS, N = 4, 64

WORKED = ("ddpm", "quick-gan")
THREE = (*WORKED, "vae")

FIGURES = ("ready_s", "idle_percent", "memory_mib", "after_work_mib")
#: Goals with three models, as upper bounds; `benchmarks.processes` has one for the memory.
GOALS = {"ready_s": 6.0, "idle_percent": 1.0}


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready, percent of a core while idle, MiB of memory (PSS) then and after 512 pictures."""

    ready_s: float
    idle_percent: float
    memory_mib: float
    after_work_mib: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="starts (default 3)")
    starts: dict[str, list[Start]] = {"three models": [], "all models": []}
    for _ in range(parser.parse_args().rounds):
        with some_models(*THREE) as three:
            starts["three models"].append(measure(three))
        starts["all models"].append(measure(WEIGHTS))
    medians = {
        label: {name: median(getattr(start, name) for start in each) for name in FIGURES}
        for label, each in starts.items()
    }
    print(f"{'':16}{''.join(f'{label:>14}' for label in medians)}   goal for three")
    for name in FIGURES:
        figures = "".join(f"{each[name]:14.2f}" for each in medians.values())
        print(f"{name:16}{figures}   {_goal(name, medians['three models'][name])}".rstrip())
    write_record("rest", medians=medians, starts=starts)


def _goal(name: str, figure: float) -> str:
    return f"at most {GOALS[name]:g}: {verdict(figure <= GOALS[name])}" if name in GOALS else ""


def measure(weights: Path) -> Start:
    """Start the service with the models in ``weights``, measure it idle and after work."""
    with service_process(weights_dir=str(weights)) as service:
        memory_mib = service.memory_mib()
        before = service.cpu_s()
        time.sleep(IDLE_S)
        idle_percent = 100 * (service.cpu_s() - before) / IDLE_S
        _work(service)
        return Start(service.ready_s, idle_percent, memory_mib, service.memory_mib())


def _work(service: Service) -> None:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=120)
    for model in WORKED:
        for _ in range(REQUESTS):
            status, _ = ask_once(connection, f"/generate/{model}", {"n": N})
            if status != 200:
                raise RuntimeError(f"{model}: status {status}")


if __name__ == "__main__":
    main()
