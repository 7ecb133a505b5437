"""Evaluation of a model as GENSERVE_PRECISION=bfloat16 serves it."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from service.sampling.precision import computes_bfloat16, in_bfloat16
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.subject import Subject


class InBfloat16(nn.Module):
    """A denoiser with its products and convolutions in bfloat16."""

    def __init__(self, denoise: nn.Module, device: torch.device) -> None:
        super().__init__()
        self._computed = in_bfloat16(denoise, device.type)

    def forward(self, *batch: Tensor) -> Tensor:
        """The denoiser's result, float32."""
        return self._computed(*batch)


def rounded(subject: Subject, device: torch.device) -> Subject:
    """``subject`` with its denoiser in bfloat16.

    Raises EvaluationError if it has none, or if ``device`` has no instructions for it.
    """
    if subject.parts.denoise is None:
        raise EvaluationError(f"--precision: {subject.name} generates in one step, which is always float32")
    if not computes_bfloat16(device):
        raise EvaluationError(f"--precision bfloat16: this {device.type} has no instructions for it")
    return replace(subject, parts=replace(subject.parts, denoise=InBfloat16(subject.parts.denoise, device)))
