"""The idle service: seconds until ready, processor time, and memory before and after some work.

With three models, which the goals are for, and with all shipped models; starts alternate.

python -m benchmarks.rest                   prints a table, writes benchmarks/results/rest.json
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from benchmarks.clients import ask_once
from benchmarks.report import verdict, write_record
from benchmarks.server import Service, service_process

IDLE_S = 20.0
REQUESTS, N = 4, 64

WEIGHTS = Path("weights")
WORKED = ("ddpm", "quick-gan")
THREE = (*WORKED, "vae")

#: Goals with three models, as upper bounds.
GOALS = {"ready_s": 4.0, "idle_percent": 1.0, "resident_mib": 450.0, "after_work_mib": 450.0}


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready, percent of a core while idle, resident MiB then and after 512 pictures."""

    ready_s: float
    idle_percent: float
    resident_mib: float
    after_work_mib: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="starts (default 3)")
    starts: dict[str, list[Start]] = {"three models": [], "all models": []}
    for _ in range(parser.parse_args().rounds):
        with tempfile.TemporaryDirectory(prefix="genserve-rest-") as scratch:
            for model in THREE:
                (Path(scratch) / model).symlink_to((WEIGHTS / model).resolve())
            starts["three models"].append(measure(Path(scratch)))
        starts["all models"].append(measure(WEIGHTS))
    medians = {
        label: {name: median(getattr(start, name) for start in each) for name in GOALS}
        for label, each in starts.items()
    }
    print(f"{'':16}{''.join(f'{label:>14}' for label in medians)}   goal for three")
    for name, goal in GOALS.items():
        figures = "".join(f"{each[name]:14.2f}" for each in medians.values())
        print(f"{name:16}{figures}   at most {goal:g}: {verdict(medians['three models'][name] <= goal)}")
    write_record("rest", medians=medians, starts=starts)


def measure(weights: Path) -> Start:
    """Start the service with the models in ``weights``, measure it idle and after work."""
    started = time.perf_counter()
    with service_process(weights_dir=str(weights)) as service:
        ready_s = time.perf_counter() - started
        resident_mib = service.resident_mib()
        before = service.cpu_s()
        time.sleep(IDLE_S)
        idle_percent = 100 * (service.cpu_s() - before) / IDLE_S
        _work(service)
        return Start(ready_s, idle_percent, resident_mib, service.resident_mib())


def _work(service: Service) -> None:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=120)
    for model in WORKED:
        for _ in range(REQUESTS):
            status, _ = ask_once(connection, f"/generate/{model}", {"n": N})
            if status != 200:
                raise RuntimeError(f"{model}: status {status}")


if __name__ == "__main__":
    main()
