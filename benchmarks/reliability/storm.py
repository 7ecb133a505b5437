"""R1: many clients that try again when they are refused, at once or after the time in Retry-After.

The goodput must not fall: what is refused must cost little, and clients that obey Retry-After must find a place.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import uvloop

from benchmarks.attacks.watch import Demand
from benchmarks.connection import Connection, request_bytes
from benchmarks.reliability.bench import Form
from benchmarks.reliability.scraping import seconds_until_idle

REQUEST = request_bytes("/generate/ddpm", '{"steps": 20, "timeout_ms": 2000}')
#: Clients that show the capacity, and those of the storm, in the long form and in the quick one; seconds of each.
USUAL, CLIENTS, SECONDS = 16, (400, 150), (30, 6)
#: Longest pause of a client between two requests. One that honours Retry-After waits for that time besides: it is
#: already different for each rejection.
PAUSE_S = 0.2
#: Part of the capacity that may be missing, and seconds until the service is idle after the storm.
MISSING, IDLE_S, MOST_IDLE_S = 0.1, 4.0, 60.0


@dataclass
class Answers:
    """Answers by status, refusals without Retry-After, and the seconds that they were collected in."""

    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    silent: int = 0

    @property
    def per_s(self) -> float:
        """Pictures a second."""
        return self.statuses[200] / self.seconds


def measure(form: Form) -> list[Demand]:
    """Clients that honour Retry-After, and then ones that ignore it."""
    demands, seconds = [], form.pick(*SECONDS)
    with form.service("") as service:
        capacity = uvloop.run(storm(service.port, USUAL, seconds, honoured=False))
        for name, honoured in (("honoured", True), ("ignored", False)):
            found = uvloop.run(storm(service.port, form.pick(*CLIENTS), seconds, honoured=honoured))
            other = found.statuses.total() - sum(found.statuses[status] for status in (200, 429, 503, 504))
            demands += [
                Demand(f"{name}: part of the goodput that is missing", 1 - found.per_s / capacity.per_s, MISSING),
                Demand(f"{name}: refusals without Retry-After", found.silent, 0),
                Demand(f"{name}: other answers and broken connections", other, 0),
                Demand(f"{name}: seconds until idle", seconds_until_idle(service.port, MOST_IDLE_S), IDLE_S),
            ]
    return demands


async def storm(port: int, clients: int, seconds: float, *, honoured: bool) -> Answers:
    """The answers to so many clients, each of which asks again and again."""
    answers = Answers(seconds)
    asking = [asyncio.create_task(_client(port, answers, random.Random(each), honoured)) for each in range(clients)]
    await asyncio.sleep(seconds)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    return answers


async def _client(port: int, answers: Answers, generator: random.Random, honoured: bool) -> None:
    connection: Connection | None = None
    while True:
        await asyncio.sleep(generator.uniform(0, PAUSE_S))
        try:
            if connection is None or not connection.is_open:
                connection = await Connection.open(port)
            answer = await connection.ask(REQUEST)
        except OSError:
            answers.statuses[0] += 1
            continue
        answers.statuses[answer.status] += 1
        if answer.status in (429, 503):
            answers.silent += not answer.retry_after
            if honoured:
                await asyncio.sleep(answer.retry_after_s)
