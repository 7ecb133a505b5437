"""BentoML twice: ``Single`` makes one picture at a time, ``Batching`` batches as BentoML's documentation has it.

With batching, one picture for one request takes a second service in front, and thus a second HTTP request: half as many
answers. ``Single`` in the event loop was quicker than in a thread. Access logs and metrics are off, and connections
between services are kept, which by default are cut after 100 requests, whatever is under way on them.
"""

from typing import Annotated

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers.generator import MAX_BATCH, WORKERS, Generator

# BentoML is not installed where mypy runs, which therefore sees untyped decorators.

Png = Annotated[bytes, ContentType("image/png")]

QUIET = {"logging": {"access": {"enabled": False}}, "metrics": {"enabled": False}}
KEPT = {"max_requests": 10**9, "max_age": 1e9}


@bentoml.service(workers=WORKERS, **QUIET)
class Single:
    """One forward pass for one request."""

    def __init__(self) -> None:
        self._generator = Generator()

    @bentoml.api(route="/generate")  # type: ignore[untyped-decorator]
    async def generate(self, seed: int) -> Png:
        """One picture."""
        return self._generator.pngs([seed])[0]


@bentoml.service(runner_connection=KEPT, **QUIET)
class Gan:
    """What batches, on one core: two of it were no quicker."""

    def __init__(self) -> None:
        self._generator = Generator()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    def pngs(self, seeds: list[int]) -> list[bytes]:
        """A batch."""
        return self._generator.pngs(seeds)


@bentoml.service(**QUIET)
class Batching:
    """What clients see."""

    gan = bentoml.depends(Gan)

    @bentoml.api(route="/generate")  # type: ignore[untyped-decorator]
    async def generate(self, seed: int) -> Png:
        """One picture, made in a batch with others'."""
        pictures: list[bytes] = await self.gan.to_async.pngs([seed])
        return pictures[0]
