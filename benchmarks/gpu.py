"""On a GPU: rows per second of the network by batch size, eager and as a CUDA graph, and of the service.

Bare: the network alone, eager and as a replayed graph. Served: pictures per second over HTTP at saturation, rows per
forward pass, and p50 and p99 at 70 % of that rate with random arrivals. Then a folder of Stable Diffusion 1.5's size:
see ``benchmarks.gpu_prompts``. Needs a CUDA device.

    python -m benchmarks.gpu                   prints tables, writes benchmarks/results/gpu.json
    python -m benchmarks.gpu --tiny            tries the commands out, on a CPU too: small, short, no record
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import gpu_prompts
from benchmarks.clients import OpenLoad, closed_loop, open_loop
from benchmarks.open_loop import Kind
from benchmarks.report import write_record
from benchmarks.scrape import rows_per_tick, scrape
from benchmarks.server import running_service
from service.engine.inputs import LABEL
from service.engine.model import Model
from service.engine.transfer import wait_for
from service.models.buckets import at_fixed_sizes
from service.models.torchscript import load_model
from service.sampling.step import Inputs

MODELS = ("vae", "quick-gan", "ddpm")
LOAD = 0.7


class Scale(NamedTuple):
    """How much to measure: models, batch sizes and calls of each; pictures of a request, connections and seconds."""

    models: tuple[str, ...]
    sizes: tuple[int, ...]
    calls: int
    pictures: tuple[int, ...]
    connections: int
    seconds: float


FULL = Scale(MODELS, (1, 4, 16, 64, 256), calls=200, pictures=(1, 16), connections=64, seconds=4.0)
SMALLEST = Scale(("quick-gan", "ddpm"), (1, 4), calls=3, pictures=(1, 2), connections=2, seconds=6.0)


@dataclass(frozen=True)
class Call:
    """Thousands of rows per second at one batch size."""

    rows: int
    plain_krows: float
    graph_krows: float


@dataclass(frozen=True)
class Served:
    """Pictures per second at saturation in requests of ``n``, rows per forward pass, and p50 and p99 at 70 % load."""

    n: int
    images_per_s: float
    rows_per_tick: float
    p50_ms: float | None
    p99_ms: float | None


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of bare networks (default 3)")
    parser.add_argument("--tiny", action="store_true", help="small and short, also on a CPU; no record")
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not options.tiny:
        print("no CUDA device: not run")
        return 2
    scale, size = (SMALLEST, gpu_prompts.SMALLEST) if options.tiny else (FULL, gpu_prompts.FULL)
    calls = {name: bare(name, device, scale, options.rounds) for name in scale.models}
    served = {name: serve(name, device, scale) for name in scale.models}
    report(calls, served)
    prompts = gpu_prompts.measure(size, device, options.rounds)
    gpu_prompts.report(prompts)
    if not options.tiny:
        write_record("gpu", calls=calls, served=served, prompts=prompts._asdict())
    return 0


def report(calls: Mapping[str, Sequence[Call]], served: Mapping[str, Sequence[Served]]) -> None:
    """Print the figures."""
    for name, own in calls.items():
        print(name)
        for call in own:
            print(f"  {call.rows:4} rows   plain {call.plain_krows:8.1f} k/s   graph {call.graph_krows:8.1f} k/s")
        for each in served[name]:
            print(
                f"  n = {each.n:3}: {each.images_per_s:9.0f} images/s, {each.rows_per_tick:.0f} rows per forward pass"
            )


def bare(name: str, device: str, scale: Scale, rounds: int) -> list[Call]:
    """The network alone, eager and at fixed sizes, which on a GPU are graphs; alternating."""
    plain = load_model(Path("weights") / name, torch.device(device))
    graph = at_fixed_sizes(plain, scale.sizes)
    found = []
    for rows in scale.sizes:
        pairs = [(_krows(plain, rows, scale.calls), _krows(graph, rows, scale.calls)) for _ in range(rounds)]
        found.append(Call(rows, *(statistics.median(figures) for figures in zip(*pairs, strict=True))))
    return found


@torch.inference_mode()
def _krows(model: Model, rows: int, calls: int) -> float:
    x = torch.randn(rows, *model.manifest.latent_shape, device=model.device)
    t = torch.full((rows,), 0.5, device=model.device)
    inputs = {LABEL: torch.zeros(rows, dtype=torch.int64, device=model.device)}
    for _ in range(10):
        _call(model, x, t, inputs)
    wait_for(model.device)
    started = time.perf_counter()
    for _ in range(calls):
        _call(model, x, t, inputs)
    wait_for(model.device)
    return rows * calls / (time.perf_counter() - started) / 1000


def _call(model: Model, x: torch.Tensor, t: torch.Tensor, inputs: Inputs) -> None:
    if model.denoise is None:
        model.decode(x, inputs)
    else:
        model.denoise(x, t, inputs)


def serve(name: str, device: str, scale: Scale) -> list[Served]:
    """The service over HTTP, with each size of requests."""
    path = f"/generate/{name}"
    settings = {"device": device, "max_bucket": str(max(scale.sizes)), "table_rows": "1024", "max_queue_ms": "1e9"}
    with running_service(**settings) as port:
        found = []
        for n in scale.pictures:
            before = scrape(port, name)
            outcome = closed_loop(port, path, {"n": n}, scale.connections, scale.seconds)
            rows = rows_per_tick(before, scrape(port, name))
            kind = Kind("one", 1.0, path, json.dumps({"n": n}))
            load = OpenLoad(LOAD * outcome.answers_per_s, scale.seconds, seed=0, drain_s=30.0)
            ok = open_loop(port, [kind], load).kinds[0].ok
            found.append(Served(n, n * outcome.answers_per_s, rows, ok.p50_ms, ok.p99_ms))
    return found


if __name__ == "__main__":
    sys.exit(main())
