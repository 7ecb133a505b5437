"""The DDPM behind LitServe, batching by request: a batch begins together and is answered together.

Generous to it: a row whose plan ends drops out of the forward pass, though its answer waits for the batch's longest
row; model and allocator are prepared as our service prepares them; the queue has no bound and a request no time-out.

    python -m benchmarks.peers.litserve_ddpm MAX_BATCH PORT
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import litserve
import torch
from fastapi import Response
from torch import Tensor

from service.engine.model import Model
from service.images import encode_png
from service.models.torchscript import load_model
from service.process import keep_memory
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.step import predict_x_start, update

#: Long enough for a batch to fill from a queue; at 0, the default, an idle worker would spin on the one core.
BATCH_TIMEOUT_S = 0.005


class Ddpm(litserve.LitAPI):  # type: ignore[misc]  # not installed where mypy runs
    """JSON with ``steps`` in, a PNG out."""

    def setup(self, device: str) -> None:
        """Load it, and run every batch that may come, so that TorchScript has compiled."""
        torch.set_num_threads(1)
        keep_memory()
        self._model = load_model(Path("weights/ddpm"), torch.device(device))
        for rows in range(1, self.max_batch_size + 1):
            sample(self._model, rows * [3])

    def predict(self, requests: list[dict[str, int]]) -> list[bytes]:
        """A batch, from its beginning to its end."""
        latents = sample(self._model, [request.get("steps", 20) for request in requests])
        return [encode_png(picture) for picture in to_uint8(latents).numpy()]

    def encode_response(self, output: bytes) -> Response:
        """The PNG itself."""
        return Response(output, media_type="image/png")


@torch.inference_mode()
def sample(model: Model, steps: Sequence[int]) -> Tensor:
    """A picture by the model's default solver, which adds no noise, for each number of steps; rows share the calls."""
    assert model.denoise is not None
    longest_first = sorted(range(len(steps)), key=lambda row: -steps[row])
    plans = [model.plan(steps=steps[row]).table.float() for row in longest_first]
    x = torch.stack([RowNoise(row).draw(model.manifest.latent_shape) for row in longest_first])
    x_start = torch.zeros_like(x)
    label = torch.tensor([row % len(model.manifest.class_names) for row in longest_first])
    for step in range(len(plans[0])):
        rows = sum(len(plan) > step for plan in plans)
        coefficients = torch.stack([plan[step] for plan in plans[:rows]])
        now, before = x[:rows], x_start[:rows].clone()
        x_start[:rows] = predict_x_start(
            model.denoise, now, coefficients[:, 0], {"label": label[:rows]}, None, None, model.manifest.x0_range
        )
        x[:rows] = update(now, x_start[:rows], before, coefficients[:, 1:], None)
    return model.decode(x, {"label": label})[torch.tensor(longest_first).argsort()]


if __name__ == "__main__":
    max_batch, port = map(int, sys.argv[1:])
    api = Ddpm(max_batch_size=max_batch, batch_timeout=BATCH_TIMEOUT_S, api_path="/generate")
    server = litserve.LitServer(api, accelerator="cpu", timeout=False)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
