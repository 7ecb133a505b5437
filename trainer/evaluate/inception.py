"""The FID with the Inception network, whose file the user provides: it cannot be shipped here."""

from pathlib import Path

import torch
from torch import Tensor, nn

from trainer.evaluate.errors import EvaluationError

BATCH_SIZE = 50


class InceptionFeatures(nn.Module):
    """A TorchScript Inception: uint8 RGB (batch, 3, height, width) to features (batch, dimension).

    The known file (``inception-2015-12-05.pt`` of StyleGAN's metrics) resizes its input and returns the features of the
    last pooling with ``return_features=True``; a file without that argument gets the images only.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        try:
            self.network = torch.jit.load(str(path), map_location="cpu").eval()  # type: ignore[no-untyped-call]
            arguments = {argument.name for argument in self.network.forward.schema.arguments}
        except (RuntimeError, ValueError, OSError) as failure:
            reason = str(failure).splitlines()[0]
            raise EvaluationError(f"--inception {path} is not a TorchScript file: {reason}") from failure
        self.options = {"return_features": True} if "return_features" in arguments else {}

    @torch.inference_mode()
    def forward(self, pictures: Tensor) -> Tensor:  # noqa: D102
        features: Tensor = self.network(pictures, **self.options)
        return features.flatten(1).float()


def fid(real: Tensor, generated: Tensor, inception: Path) -> float:
    """The FID of uint8 (count, 1 or 3, height, width) by torchmetrics; grey images are repeated in three channels.

    Raises EvaluationError when torchmetrics is not installed or ``inception`` is not a TorchScript file.
    """
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance
    except ImportError as failure:
        raise EvaluationError("--inception needs torchmetrics: pip install 'genserve[fid]'") from failure
    network = InceptionFeatures(inception)
    size = real.shape[-1]
    metric = FrechetInceptionDistance(network, input_img_size=(3, size, size)).set_dtype(torch.float64)
    for pictures, is_real in ((real, True), (generated, False)):
        for batch in torch.split(pictures, BATCH_SIZE):
            metric.update(batch.expand(-1, 3, -1, -1), real=is_real)
    return float(metric.compute())
