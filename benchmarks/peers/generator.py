"""The model and its pictures, the same for every peer, so that a peer's own file holds nothing but that peer's way.

$PEER_PREPARATION says how the model is prepared: ``shipped``, as a user of any of the peers would write it, or
``alike``, as our service prepares its own, which leaves only the servers to differ. $PEER_WORKERS is how many processes
may compute.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from service.images import encode_png
from service.sampling.pixels import to_uint8

WEIGHTS = Path("weights/quick-gan")
CLASSES = 10

PREPARATION = os.environ.get("PEER_PREPARATION", "shipped")
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))

#: By preparation: where mosec, the quickest peer, was quickest. What ``alike`` adds makes rows of large batches cheap.
MAX_BATCHES = {"shipped": 16, "alike": 64}
MAX_BATCH = MAX_BATCHES[PREPARATION]


class Generator:
    """The quick GAN on one torch thread, warm for every batch up to ``MAX_BATCH``."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        manifest = json.loads((WEIGHTS / "manifest.json").read_text())
        self._latent_shape: list[int] = manifest["latent_shape"]
        self._decode = _alike() if PREPARATION == "alike" else _as_shipped(manifest["artifact"]["file"])
        for batch in range(1, MAX_BATCH + 1):
            for _ in range(3):  # TorchScript compiles in its first calls
                self.pngs(range(batch))

    @torch.inference_mode()
    def pngs(self, seeds: Sequence[int]) -> list[bytes]:
        """One PNG for each seed, of class seed modulo ten, by one forward pass."""
        z = torch.stack([torch.randn(self._latent_shape, generator=_seeded(seed)) for seed in seeds])
        label = torch.tensor([seed % CLASSES for seed in seeds])
        return [encode_png(picture) for picture in to_uint8(self._decode(z, label)).numpy()]


def _as_shipped(file: str) -> Callable[[Tensor, Tensor], Tensor]:
    module = torch.jit.load(WEIGHTS / file).eval()  # type: ignore[no-untyped-call]
    decode: Callable[[Tensor, Tensor], Tensor] = module.decode
    return decode


def _alike() -> Callable[[Tensor, Tensor], Tensor]:
    # Not at the top: importing the loader already changes how TorchScript runs.
    from service.models.torchscript import load_model
    from service.process import keep_memory

    keep_memory()
    return load_model(WEIGHTS, torch.device("cpu")).decode


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
