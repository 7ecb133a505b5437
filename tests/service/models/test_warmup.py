from dataclasses import replace

import torch
from torch import Tensor

from service.engine.model import Model
from service.models.warmup import TIMED_PASSES, warm_up
from service.settings import Settings


class Counted:
    """A part of a model that counts its calls by their rows."""

    def __init__(self, part: object) -> None:
        assert callable(part)
        self._part = part
        self.calls: dict[int, int] = {}

    def __call__(self, *batch: Tensor) -> Tensor:
        self.calls[len(batch[0])] = self.calls.get(len(batch[0]), 0) + 1
        result = self._part(*batch)
        assert isinstance(result, torch.Tensor)
        return result


def test_the_price_of_a_step_is_without_the_decode_that_only_the_last_one_has(diffusion: Model) -> None:
    denoise, decode = Counted(diffusion.denoise), Counted(diffusion.decode)
    warm_up(replace(diffusion, denoise=denoise, decode=decode), Settings(max_bucket=4))
    assert denoise.calls == dict.fromkeys((1, 2, 4), 1 + TIMED_PASSES)
    assert decode.calls == dict.fromkeys((1, 2, 4), 1)


def test_the_price_of_a_picture_without_steps_is_its_decode(one_shot: Model) -> None:
    decode = Counted(one_shot.decode)
    warm_up(replace(one_shot, decode=decode), Settings(max_bucket=2))
    assert decode.calls == dict.fromkeys((1, 2), 1 + TIMED_PASSES)
