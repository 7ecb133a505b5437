"""Pictures per second of a folder of Stable Diffusion 1.5's size with random weights: `pipe(...)` and the service.

20 steps, guidance, float16, 512 x 512 pixels; `pipe(...)` with one prompt a call and with eight, as diffusers runs it
by default, and the service asked by several clients in a closed loop. `benchmarks.gpu` runs it.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks.clients import closed_loop
from benchmarks.prompt_folder import STABLE_DIFFUSION, TINY, Shape, load_pipeline, write_folder
from benchmarks.scrape import rows_per_tick, scrape
from benchmarks.server import UNBOUNDED, running_service

MODEL, PROMPT, GUIDANCE = "prompts", "a lighthouse in the fog", 7
BATCHES = (1, 8)


class Size(NamedTuple):
    """What to measure, and how long: seconds of each way."""

    shape: Shape
    steps: int
    seconds: float
    connections: tuple[int, ...]


FULL, SMALLEST = Size(STABLE_DIFFUSION, 20, 20.0, (1, 8, 32)), Size(TINY, 2, 4.0, (1, 4))


class Served(NamedTuple):
    """The service with so many clients: pictures per second, rows per forward pass, milliseconds of a request."""

    connections: int
    pictures_per_s: float
    rows_per_call: float
    p50_ms: float


class Prompts(NamedTuple):
    """Parameters of the UNet; pictures per second of `pipe(...)` by the prompts of a call; and of the service."""

    unet_parameters: int
    pipe_pictures_per_s: dict[int, float]
    served: list[Served]


def measure(size: Size, device: str, rounds: int) -> Prompts:
    """Write the folder, and measure both."""
    # On a CPU, half precision has no kernels for some layers, or slow ones.
    dtype = torch.float16 if device == "cuda" else torch.float32
    with tempfile.TemporaryDirectory(prefix="genserve-gpu-") as scratch:
        folder = Path(scratch, MODEL)
        parameters = write_folder(folder, size.shape, dtype)
        (folder / "genserve.json").write_text(json.dumps({"dtype": "float16"}))
        return Prompts(parameters, by_pipe(folder, dtype, device, size, rounds), by_service(folder, device, size))


def by_pipe(folder: Path, dtype: torch.dtype, device: str, size: Size, rounds: int) -> dict[int, float]:
    """Pictures per second of `pipe(...)` by the prompts of a call: medians of rounds in turn."""
    pipe = load_pipeline(folder, dtype, device)
    found = [{batch: _pictures_per_s(pipe, batch, size) for batch in BATCHES} for _ in range(rounds)]
    del pipe
    if device == "cuda":
        torch.cuda.empty_cache()  # the service needs it
    return {batch: statistics.median(each[batch] for each in found) for batch in BATCHES}


def _pictures_per_s(pipe: Any, batch: int, size: Size) -> float:  # noqa: ANN401  (diffusers has no types)
    def call() -> None:
        pipe([PROMPT] * batch, num_inference_steps=size.steps, guidance_scale=GUIDANCE, output_type="np")

    call()
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < size.seconds:
        call()
        calls += 1
    return batch * calls / spent


def by_service(folder: Path, device: str, size: Size) -> list[Served]:
    """The service with each number of clients."""
    body: dict[str, int | str] = {"prompt": PROMPT, "steps": size.steps, "guidance_scale": GUIDANCE}
    with running_service(weights_dir=str(folder.parent), device=device, **UNBOUNDED) as port:
        return [_served(port, body, connections, size.seconds) for connections in size.connections]


def _served(port: int, body: dict[str, int | str], connections: int, seconds: float) -> Served:
    before = scrape(port, MODEL)
    outcome = closed_loop(port, f"/generate/{MODEL}", body, connections, seconds)
    if outcome.failures:
        raise RuntimeError(f"{outcome.failures} responses were not 200")
    # Little's law: clients that are answered together would be counted in few, whole rounds.
    pictures_per_s = 1000 * connections / outcome.mean_ms
    return Served(connections, pictures_per_s, rows_per_tick(before, scrape(port, MODEL)), outcome.p50_ms)


def report(found: Prompts) -> None:
    """Print the figures."""
    print(f"a UNet of {found.unet_parameters / 1e6:.0f} million parameters, pictures per second")
    for batch, speed in found.pipe_pictures_per_s.items():
        print(f"  pipe(...) with {batch} prompts: {speed:7.2f}")
    best = max(found.pipe_pictures_per_s.values())
    for each in found.served:
        made = f"{each.pictures_per_s:7.2f}, {each.pictures_per_s / best:.2f} of the best pipe(...)"
        rows = f"{each.rows_per_call:.1f} rows per forward pass"
        print(f"  served to {each.connections:2} clients: {made}, {rows}, p50 {each.p50_ms:.0f} ms")
