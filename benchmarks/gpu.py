"""On a GPU: rows per second of the network by batch size, eager and as a CUDA graph, and of the service.

Bare: the network alone, eager and as a replayed graph. Served: pictures per second over HTTP at saturation, rows per
forward pass, and p50 and p99 at 70 % of that rate with random arrivals. Needs a CUDA device.

    python -m benchmarks.gpu                   prints a table, writes benchmarks/results/gpu.json
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.clients import OpenLoad, closed_loop, open_loop
from benchmarks.open_loop import Kind
from benchmarks.report import write_record
from benchmarks.scrape import rows_per_tick, scrape
from benchmarks.server import running_service
from service.engine.model import Model
from service.models.buckets import at_fixed_sizes
from service.models.torchscript import load_model

MODELS = ("vae", "quick-gan", "ddpm")
SIZES = (1, 4, 16, 64, 256)
SECONDS = 4.0
LOAD = 0.7


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
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of the bare network (default 3)")
    rounds = parser.parse_args().rounds
    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured")
        return 2
    calls = {name: bare(name, rounds) for name in MODELS}
    served = {name: serve(name) for name in MODELS}
    for name in MODELS:
        print(name)
        for call in calls[name]:
            print(f"  {call.rows:4} rows   plain {call.plain_krows:8.1f} k/s   graph {call.graph_krows:8.1f} k/s")
        for each in served[name]:
            print(
                f"  n = {each.n:3}: {each.images_per_s:9.0f} images/s, {each.rows_per_tick:.0f} rows per forward pass"
            )
    write_record("gpu", calls=calls, served=served)
    return 0


def bare(name: str, rounds: int) -> list[Call]:
    """The network alone, eager and as a graph, alternating."""
    plain = load_model(Path("weights") / name, torch.device("cuda"))
    graph = at_fixed_sizes(plain, SIZES)
    found = []
    for rows in SIZES:
        pairs = [(_krows(plain, rows), _krows(graph, rows)) for _ in range(rounds)]
        found.append(Call(rows, *(statistics.median(figures) for figures in zip(*pairs, strict=True))))
    return found


@torch.inference_mode()
def _krows(model: Model, rows: int) -> float:
    x, t = torch.randn(rows, *model.manifest.latent_shape, device="cuda"), torch.full((rows,), 0.5, device="cuda")
    label = torch.zeros(rows, dtype=torch.int64, device="cuda")
    for _ in range(10):
        _call(model, x, t, label)
    torch.cuda.synchronize()
    calls, started = 200, time.perf_counter()
    for _ in range(calls):
        _call(model, x, t, label)
    torch.cuda.synchronize()
    return rows * calls / (time.perf_counter() - started) / 1000


def _call(model: Model, x: torch.Tensor, t: torch.Tensor, label: torch.Tensor) -> None:
    if model.denoise is None:
        model.decode(x, label)
    else:
        model.denoise(x, t, label)


def serve(name: str) -> list[Served]:
    """The service over HTTP, with requests of one and of sixteen pictures."""
    path = f"/generate/{name}"
    with running_service(device="cuda", max_bucket=str(max(SIZES)), table_rows="1024", max_queue_ms="1e9") as port:
        found = []
        for n in (1, 16):
            before = scrape(port, name)
            outcome = closed_loop(port, path, {"n": n}, connections=64, seconds=SECONDS)
            rows = rows_per_tick(before, scrape(port, name))
            kind = Kind("one", 1.0, path, json.dumps({"n": n}))
            load = OpenLoad(LOAD * outcome.answers_per_s, SECONDS, seed=0, drain_s=30.0)
            ok = open_loop(port, [kind], load).kinds[0].ok
            found.append(Served(n, n * outcome.answers_per_s, rows, ok.p50_ms, ok.p99_ms))
    return found


if __name__ == "__main__":
    sys.exit(main())
