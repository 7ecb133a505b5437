"""R10: a picture that cannot be computed takes no other one with it."""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import log2
from pathlib import Path

import torch
import uvloop
from torch import Tensor, nn

from benchmarks.attacks.watch import Demand
from benchmarks.connection import Answer, Connection, request_bytes
from benchmarks.reliability.bench import Form
from benchmarks.reliability.scraping import exposition, total
from benchmarks.server import Service
from tests.service.artefacts import write_one_shot

#: The first number of a latent that is poison, by what it does.
KINDS = {"raises": 15.0, "NaN": 25.0, "runs out of memory": 35.0, "hangs": 45.0}
#: Rows of a batch; poisoned ones among them, in the long form and in the quick one.
ROWS, POISONED = 8, ((1, 2, 3, 4, 5, 6, 7), (1, 4))
#: Forward passes that may be added by one poisoned row.
MOST_SPLITS = 2 * log2(ROWS) + 1
MODEL, ENGINE_TIMEOUT_S, WAIT_S = "poisoned", 5.0, 120.0


class Poisoned(nn.Module):
    """A picture that depends on the latent; a batch with poison does what ``KINDS`` says."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 64, generator=torch.Generator().manual_seed(0)))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        """Pictures from ``z`` (rows, 4); ``label`` has no effect."""
        first = z[:, 0]
        if bool(((first > 10.0) & (first < 20.0)).any()):
            raise RuntimeError("poisoned")
        if bool(((first > 30.0) & (first < 40.0)).any()):
            first = first + torch.zeros(1 << 50)[:1]  # used, or TorchScript would leave it out
        if bool(((first > 40.0) & (first < 50.0)).any()):
            while bool((first == first).all()):
                first = first + 0.0 * label.sum()
        pictures = torch.tanh(z @ self.weight).reshape(-1, 1, 8, 8)
        spoilt = ((first > 20.0) & (first < 30.0))[:, None, None, None]
        return torch.where(spoilt, torch.full_like(pictures, float("nan")), pictures)


def measure(form: Form) -> list[Demand]:
    """Ask for good and poisoned pictures at the same time, with each kind of poison, at every place."""
    with _weights() as folder:
        settings = {"weights_dir": folder, "max_bucket": str(ROWS), "engine_timeout_s": str(ENGINE_TIMEOUT_S)}
        with form.service("one-for-all", deterministic="true", spare_engine="true", **settings) as service:
            return uvloop.run(poison(service, form))


@contextmanager
def _weights() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="genserve-poison-") as folder:
        write_one_shot(Path(folder), MODEL, Poisoned(), "gan")
        yield folder


async def poison(service: Service, form: Form) -> list[Demand]:
    """All batches, one after another."""
    good = [json.dumps({"seed": seed, "format": "npy"}) for seed in range(ROWS)]
    golden = [(await _ask(service.port, body)).content for body in good]
    demands = []
    for kind, first in KINDS.items():
        bad = json.dumps({"latents": [[first, 0.0, 0.0, 0.0]], "format": "npy"})
        engines, wrong, poisoned, before = service.named("engine"), 0, 0, _splits(service)
        counts = (1,) if kind == "hangs" else POISONED[form.quick]
        for number in counts:
            for shift in range(1 if form.quick or kind == "hangs" else ROWS):
                places = {(shift + place) % ROWS for place in range(number)}
                bodies = [bad if place in places else good[place] for place in range(ROWS)]
                answers = await asyncio.gather(*(_ask(service.port, body) for body in bodies))
                wrong += sum(
                    answer.status != 500 if place in places else (answer.status, answer.content) != (200, golden[place])
                    for place, answer in enumerate(answers)
                )
                poisoned += number
        demands.append(Demand(f"{kind}: answers that are wrong, of good and of poisoned rows", wrong, 0))
        if kind != "hangs":
            demands.append(Demand(f"{kind}: engines that ended", engines != service.named("engine"), 0))
            added = (_splits(service) - before) / poisoned
            demands.append(Demand(f"{kind}: forward passes added by a poisoned row", added, MOST_SPLITS))
    return demands


def _splits(service: Service) -> float:
    return total(exposition(service.port), "split_calls_total")


async def _ask(port: int, body: str) -> Answer:
    connection = await Connection.open(port)
    try:
        async with asyncio.timeout(WAIT_S):
            return await connection.ask(request_bytes(f"/generate/{MODEL}", body))
    except (OSError, TimeoutError):
        return Answer(0, retry_after=False)
    finally:
        connection.close()
