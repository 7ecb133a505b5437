"""The last check before a model serves: its golden picture is the same as at export."""

import numpy as np
import torch

from service.contract.manifest import Golden
from service.engine.inputs import LABEL
from service.engine.model import Model
from service.engine.results import Picture
from service.sampling.loop import sample
from service.sampling.noise import RowNoise
from service.sampling.pixels import to_uint8
from service.sampling.step import Inputs

#: Mean distance in grey levels. Another device, or faster arithmetic, changes a few pixels by one level; other weights
#: change them by tens.
GOLDEN_TOLERANCE = 1.0


def check_golden(model: Model) -> None:
    """Compare the manifest's golden picture; without one, check that the picture of seed 0 is not a single level.

    Models that do not generate are not checked, nor are those in diffusers' format: warm-up checks their networks, and
    one of their pictures takes long. Raises ValueError with the reason, and whatever the model raises.
    """
    golden = model.manifest.golden
    if model.schedules or (golden is None and "generate" not in model.manifest.capabilities):
        return
    picture = draw(model, golden or Golden(seed=0, class_label=0, steps=None, solver=None, picture=""))
    if golden is None:
        if picture.min() == picture.max():
            raise ValueError(f"the picture of seed 0 has only one grey level, {picture.min()}")
        return
    expected = np.frombuffer(golden.levels, np.uint8).reshape(picture.shape)
    distance = float(np.abs(picture.astype(int) - expected).mean())
    if distance > GOLDEN_TOLERANCE:
        raise ValueError(
            f"the picture of seed {golden.seed} differs from the golden one by {distance:.1f} grey levels on average; "
            f"at most {GOLDEN_TOLERANCE:g} is allowed"
        )


@torch.inference_mode()
def draw(model: Model, golden: Golden) -> Picture:
    """The picture of ``golden``, uint8 (height, width, channel). Raises ValueError when it is not finite."""
    manifest = model.manifest
    noise = RowNoise(golden.seed)
    latent = noise.draw(manifest.latent_shape)[None].to(model.device)
    inputs = _inputs(model, golden)
    if model.denoise is not None:
        plan = model.plan(golden.solver, golden.steps)
        latent = sample(model.denoise, latent, [noise], inputs, plan, x0_range=manifest.x0_range)
    image = model.decode(latent, inputs)
    if not bool(image.isfinite().all()):
        raise ValueError(f"the picture of seed {golden.seed} is not finite")
    return to_uint8(image)[0].cpu().numpy()


def _inputs(model: Model, golden: Golden) -> Inputs:
    if model.encode_text is None or model.tokenize is None:
        return {LABEL: torch.tensor([golden.class_label], device=model.device)}
    return model.encode_text(model.tokenize(golden.prompt or "").ids[None].to(model.device))
