"""R11: a seed gives the same picture alone, in batches of any size, and on every engine."""

import asyncio
import io
import json
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import uvloop

from benchmarks.attacks.watch import Demand
from benchmarks.connection import Connection, request_bytes
from benchmarks.reliability.bench import Form
from benchmarks.server import Service

#: Seeds, in the long form and in the quick one; pictures of one request at most; requests at a time.
SEEDS, MOST, AT_A_TIME = (500, 24), 16, 8
#: Greatest difference of a pixel, in levels of 255.
LEVELS = 1
MODELS: dict[str, dict[str, int]] = {"quick-gan": {}, "vae": {}, "ddpm": {"steps": 6}}

Pictures = npt.NDArray[np.uint8]


def measure(form: Form) -> list[Demand]:
    """Ask two engines for each seed alone, then for all in requests of random sizes at a time."""
    seeds = list(range(1, form.pick(*SEEDS) + 1))
    with form.service("mix-up", *MODELS, engines="2", engine_threads="1") as service:
        worst = {model: uvloop.run(greatest_difference(service, model, seeds)) for model in MODELS}
    return [
        Demand(f"{model}: of {len(seeds)} seeds, greatest difference in levels of 255", levels, LEVELS)
        for model, levels in worst.items()
    ]


async def greatest_difference(service: Service, model: str, seeds: Sequence[int]) -> int:
    """The greatest difference of a pixel between a seed's picture alone and that in a batch, in levels of 255."""
    connections = asyncio.Queue[Connection]()
    for _ in range(AT_A_TIME):
        connections.put_nowait(await Connection.open(service.port))
    alone = {seed: (await _ask(connections, model, [seed]))[0] for seed in seeds}
    asked = batches(seeds, random.Random(0))
    answers = await asyncio.gather(*(_ask(connections, model, each) for each in asked))
    batched = [pair for batch, got in zip(asked, answers, strict=True) for pair in zip(batch, got, strict=True)]
    return worst_of(alone, batched)


def batches(seeds: Sequence[int], generator: random.Random) -> list[list[int]]:
    """All seeds once in a random order, in lists of random lengths up to ``MOST``."""
    left, cut = generator.sample([*seeds], len(seeds)), list[list[int]]()
    while left:
        size = generator.randint(1, MOST)
        cut.append(left[:size])
        left = left[size:]
    return cut


def worst_of(alone: dict[int, Pictures], batched: Sequence[tuple[int, Pictures]]) -> int:
    """The greatest difference of a pixel from the picture that the same seed has alone."""
    return max(int(np.abs(alone[seed].astype(np.int16) - each).max()) for seed, each in batched)


async def _ask(connections: asyncio.Queue[Connection], model: str, seeds: Sequence[int]) -> Pictures:
    body = json.dumps({"seeds": [*seeds], "format": "npy", **MODELS[model]})
    connection = await connections.get()
    answer = await connection.ask(request_bytes(f"/generate/{model}", body))
    connections.put_nowait(connection)
    if answer.status != 200:
        raise RuntimeError(f"{model} answered with {answer.status}: {answer.content[:200]!r}")
    pictures: Pictures = np.load(io.BytesIO(answer.content), allow_pickle=False)
    return pictures
