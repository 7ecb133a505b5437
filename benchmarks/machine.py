"""The machine that a figure was measured on."""

import os
import platform
import time
from pathlib import Path

import torch


def describe_machine() -> dict[str, str | int]:
    """Processor, cores, GPU and versions."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "gpu": gpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def others_busy(seconds: float = 2.0, stat: Path = Path("/proc/stat")) -> float:
    """The share of all cores that is in use now, 0 to 1: call it before a measurement, to know what ran beside it."""
    before = _busy_and_all(stat)
    time.sleep(seconds)
    busy, total = (after - earlier for after, earlier in zip(_busy_and_all(stat), before, strict=True))
    return busy / total if total else 0.0


def _busy_and_all(stat: Path) -> tuple[int, int]:
    times = [int(each) for each in stat.read_text().split("\n", 1)[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)  # without idle and waiting for disks
