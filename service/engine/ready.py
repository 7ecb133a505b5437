"""What a ready model costs, for the log."""

import logging

from service.contract.manifest import Manifest
from service.engine.cost import CostModel
from service.logs import SENTENCE

log = logging.getLogger(__name__)


def picture_ms(manifest: Manifest, cost: CostModel, text: CostModel | None = None) -> float:
    """Device milliseconds of one picture with the model's defaults, by the prices of warm-up.

    With a prompt and a negative prompt, where the model reads them; ``text`` is the cost of its text encoder.
    """
    text_ms = 0.0 if text is None else 2 * text.warmup_row_ms()
    if manifest.defaults is None:
        return cost.warmup_row_ms()
    guided = manifest.defaults.guidance_scale != 1 and (manifest.class_names or _guides_prompts(manifest))
    return manifest.defaults.steps * (2 if guided else 1) * cost.warmup_row_ms() + cost.decode_ms + text_ms


def _guides_prompts(manifest: Manifest) -> bool:
    return manifest.conditioning is not None and manifest.conditioning.negative_prompt


def log_ready(manifest: Manifest, cost: CostModel, text: CostModel | None = None) -> None:
    """Log that a model is ready, and its costs in milliseconds."""
    spent_ms = picture_ms(manifest, cost, text)
    told = {"model": manifest.name, "version": manifest.version, "bucket": cost.best_bucket, "row_ms": cost.row_ms()}
    sentence = f"{manifest.name} ready: {_shown(spent_ms)} a picture"
    log.info("model ready", extra=told | {"picture_ms": spent_ms, SENTENCE: sentence})


def _shown(spent_ms: float) -> str:
    """A time as people read it: 0.41 ms, 80 ms, 12.3 s."""
    if spent_ms < 10:
        return f"{spent_ms:.2g} ms"
    return f"{spent_ms:.0f} ms" if spent_ms < 1000 else f"{spent_ms / 1000:.1f} s"
