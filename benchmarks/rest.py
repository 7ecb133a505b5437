"""The service at rest: seconds until it is ready, what it then costs, and the memory it holds after some work.

python -m benchmarks.rest                   a table, and benchmarks/results/rest.json
"""

import argparse
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from statistics import median

from benchmarks.clients import ask_once
from benchmarks.report import verdict, write_record
from benchmarks.server import Service, service_process

IDLE_S = 5.0
REQUESTS, N = 4, 64

#: What each figure may be at most.
GOALS = {"ready_s": 4.0, "idle_percent": 1.0, "resident_mib": 450.0, "after_work_mib": 450.0}


@dataclass(frozen=True)
class Start:
    """One start: seconds until ready, percent of a core while idle, MiB resident then and after 512 pictures."""

    ready_s: float
    idle_percent: float
    resident_mib: float
    after_work_mib: float


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="starts (default 3)")
    starts = [measure() for _ in range(parser.parse_args().rounds)]
    medians = {name: median(getattr(start, name) for start in starts) for name in GOALS}
    for name, goal in GOALS.items():
        print(f"{name:16} {medians[name]:8.2f}   at most {goal:g}: {verdict(medians[name] <= goal)}")
    write_record("rest", medians=medians, starts=starts)


def measure() -> Start:
    """Start it, leave it alone, give it work."""
    started = time.perf_counter()
    with service_process() as service:
        ready_s = time.perf_counter() - started
        resident_mib = service.resident_mib()
        before = _cpu_s(service)
        time.sleep(IDLE_S)
        idle_percent = 100 * (_cpu_s(service) - before) / IDLE_S
        _work(service)
        return Start(ready_s, idle_percent, resident_mib, service.resident_mib())


def _work(service: Service) -> None:
    connection = HTTPConnection("127.0.0.1", service.port, timeout=120)
    for model in ("ddpm", "quick-gan"):
        for _ in range(REQUESTS):
            status, _ = ask_once(connection, f"/generate/{model}", {"n": N})
            if status != 200:
                raise RuntimeError(f"{model}: answered {status}")


def _cpu_s(service: Service) -> float:
    """Seconds of processor time so far, in user and system."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    main()
