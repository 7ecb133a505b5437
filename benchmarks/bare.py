"""The bare TorchScript loop: images per second of a model at its best bucket on one thread, as bytes on the host.

python -m benchmarks.bare quick-gan served 4      prepared as in the service
python -m benchmarks.bare quick-gan loaded 4      as returned by ``torch.jit.load``
"""

import sys
import time
from dataclasses import replace
from pathlib import Path

import torch

from service.engine.model import Model
from service.models.torchscript import by_class, load_model, timed_by_class
from service.models.warmup import warm_up
from service.process import keep_memory
from service.sampling.pixels import to_uint8
from service.settings import Settings


def main(name: str, preparation: str, seconds: float) -> None:
    """Print images per second."""
    torch.set_num_threads(1)
    model = _load(Path("weights") / name, preparation)
    rows = warm_up(model, Settings(tick_budget_ms=1e9)).best_bucket  # no other model waits
    images, end = 0, (start := time.perf_counter()) + seconds
    while time.perf_counter() < end:
        make(model, rows)
        images += rows
    print(images / (time.perf_counter() - start))


def _load(folder: Path, preparation: str) -> Model:
    model = load_model(folder, torch.device("cpu"))
    if preparation == "served":
        keep_memory()
        return model
    torch._C._jit_set_profiling_executor(True)  # torch's default, which the service changes
    module = torch.jit.load(folder / model.manifest.artifact.file).eval()  # type: ignore[no-untyped-call]
    denoise = timed_by_class(module.denoise) if model.manifest.denoises else None
    return replace(model, decode=by_class(module.decode), denoise=denoise)


@torch.inference_mode()
def make(model: Model, rows: int) -> None:
    """One batch of pictures by the default plan: only the forward passes, without a server."""
    x = torch.randn(rows, *model.manifest.latent_shape)
    inputs = {"label": torch.full((rows,), model.manifest.null_label)}
    x_start_prev = torch.zeros_like(x)
    for t, a, b, c, _ in model.plan().table.float():
        assert model.denoise is not None
        x_start = model.denoise(x, t.expand(rows), inputs).clamp(-1.0, 1.0)
        x, x_start_prev = a * x + b * x_start + c * x_start_prev, x_start
    to_uint8(model.decode(x, inputs)).numpy().tobytes()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
