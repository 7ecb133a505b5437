"""The parts of a text-to-image model that the trainer exported, as functions of the engine's inputs."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.contract.manifest import Manifest
from service.contract.text import PADDING
from service.engine.inputs import declared_by
from service.engine.model import Model
from service.engine.rows import Adapter
from service.models.words import load_words
from service.sampling.step import Inputs

Part = Callable[..., Any]


def text_model(directory: Path, manifest: Manifest, device: torch.device, parts: Mapping[str, Part]) -> Model:
    """The model with prompts in ``directory``. Raises ContractError for its file of words.

    ``parts`` are `decode`, `denoise` and `encode_text` as ``functions`` gives them, or functions that compute them
    elsewhere.
    """
    assert manifest.text is not None
    assert manifest.conditioning is not None
    words = load_words(directory, manifest.text)
    return Model(
        manifest,
        device,
        parts["decode"],
        parts["denoise"],
        inputs=declared_by(manifest.conditioning),
        encode_text=parts["encode_text"],
        tokenize=words.tokenize,
        examples=words.examples(),
    )


def functions(parts: Mapping[str, Part]) -> dict[str, Part]:
    """The artefact's ``parts`` as the engine calls them."""
    decode, denoise, encode_text = parts["decode"], parts["denoise"], parts["encode_text"]

    def denoised(x: Tensor, t: Tensor, inputs: Inputs) -> Tensor:
        drawn = (inputs["hint"], inputs["hint_scale"]) if "hint" in inputs else ()
        x_start: Tensor = denoise(x, t, inputs["context"], _weights(inputs["context_mask"]), *drawn)
        return x_start

    def read(ids: Tensor, adapters: Sequence[Adapter | None] = ()) -> dict[str, Tensor]:  # noqa: ARG001
        tokens = ids[:, 0]
        mask = tokens != PADDING
        return {"context": encode_text(tokens, mask), "context_mask": mask.float()}

    return {"decode": lambda z, _: decode(z), "denoise": denoised, "encode_text": read}


def _weights(context_mask: Tensor) -> Tensor:
    """The weights of the tokens as the network takes them. The first is always there: a mean of none would be NaN."""
    weights = context_mask.clone()
    weights[:, 0] = 1.0
    return weights
