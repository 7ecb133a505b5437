"""R5: under mixed traffic for minutes, neither memory nor descriptors nor threads grow."""

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from math import sqrt
from pathlib import Path
from typing import NamedTuple

import uvloop

from benchmarks import process_tree
from benchmarks.attacks.watch import Demand
from benchmarks.connection import Connection, request_bytes
from benchmarks.reliability.bench import Form, NotRun
from benchmarks.server import Service

#: Each with its weight: pictures of two models, errors, and reads.
MIX = (
    (request_bytes("/generate/quick-gan", '{"n": 2}'), 10),
    (request_bytes("/generate/ddpm", '{"steps": 4}'), 3),
    (request_bytes("/generate/ddpm", '{"nope": 1}'), 4),
    (request_bytes("/generate/nope", "{}"), 2),
    (b"GET /models HTTP/1.1\r\nhost: localhost\r\n\r\n", 2),
    (b"GET /health/ready HTTP/1.1\r\nhost: localhost\r\n\r\n", 4),
)
#: Part of the requests whose client leaves at once; clients; seconds between two requests of one, and between looks.
LEAVING, CLIENTS, PAUSE_S, LOOK_S = 0.01, 4, 0.02, 1.0
#: Part of the time at the start that does not count.
WARM_UP = 0.25
#: MiB an hour that the memory may grow at most, by the minutes of the soak: a short one cannot tell little from none.
SLOPES = ((60.0, 5.0), (10.0, 30.0), (0.0, 200.0))
#: Descriptors and threads that may come, besides.
MORE = 2
_NORMAL_95 = 1.96


class Look(NamedTuple):
    """What all processes use at a time: private memory, open descriptors, and threads."""

    at_s: float
    private_mib: float
    descriptors: int
    threads: int


def measure(form: Form) -> list[Demand]:
    """Soak for the form's minutes."""
    with form.service("leak", engine_threads="1") as service:
        looks = uvloop.run(soak(service, 60 * form.minutes))
    return judge(looks, form.minutes)


def judge(looks: Sequence[Look], minutes: float) -> list[Demand]:
    """The demands from what was seen, the warm-up included."""
    counted = looks[round(WARM_UP * len(looks)) :]
    if len(counted) < 8:
        raise NotRun("too short for a slope")
    slope, half = line([(look.at_s / 3600, look.private_mib) for look in counted])
    most = next(most for least, most in SLOPES if minutes >= least)
    return [
        Demand(f"MiB an hour ({slope:.1f} +- {half:.1f}): upper end of the 95 % interval", slope + half, most),
        Demand("descriptors that came", _came([look.descriptors for look in counted]), MORE),
        Demand("threads that came", _came([look.threads for look in counted]), MORE),
    ]


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope of the least-squares line through at least three points, and half of its 95 % interval."""
    count = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    left = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return slope, _NORMAL_95 * sqrt(left / (count - 2) / spread)


def _came(counts: Sequence[int]) -> int:
    """By how much the least of the last third is above the least of the first: peaks do not count."""
    third = max(1, len(counts) // 3)
    return min(counts[-third:]) - min(counts[:third])


async def soak(service: Service, seconds: float) -> list[Look]:
    """Load the service, and look at it again and again."""
    clients = [asyncio.create_task(_client(service.port, random.Random(number))) for number in range(CLIENTS)]
    looks, began = list[Look](), time.monotonic()
    while (now := time.monotonic() - began) < seconds:
        looks.append(await asyncio.to_thread(look_at, service.pid, now))
        await asyncio.sleep(LOOK_S)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return looks


def look_at(pid: int, at_s: float) -> Look:
    """What a process and its descendants use now."""
    pids = [process.pid for process in process_tree.tree(pid)]
    rollups = "".join((process_tree.PROC / str(each) / "smaps_rollup").read_text() for each in pids)
    private_kib = sum(int(row.split()[1]) for row in rollups.splitlines() if row.startswith("Private_"))
    folders = [Path("/proc", str(each)) for each in pids]
    descriptors = sum(len([*(folder / "fd").iterdir()]) for folder in folders)
    return Look(at_s, private_kib / 1024, descriptors, sum(len([*(folder / "task").iterdir()]) for folder in folders))


async def _client(port: int, generator: random.Random) -> None:
    requests, weights = zip(*MIX, strict=True)
    connection = await Connection.open(port)
    while True:
        (request,) = generator.choices(requests, weights)
        if not connection.is_open:
            connection = await Connection.open(port)
        if generator.random() < LEAVING:
            asking = asyncio.create_task(connection.ask(request))
            await asyncio.sleep(0)
            connection.close()
            await asyncio.gather(asking, return_exceptions=True)
        with suppress(OSError):
            if connection.is_open:
                await connection.ask(request)
        await asyncio.sleep(PAUSE_S)
