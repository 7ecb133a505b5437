"""The parts of a model that have a lane of their own besides its encoder: its text encoder, and a large decoder."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from service.engine.inputs import Input, check_conditions
from service.engine.model import Encoder, Model
from service.engine.results import Latent
from service.engine.rows import Adapter, Conditions, RowSpec, Size
from service.sampling.solvers import EMPTY_PLAN
from service.sampling.step import Inputs


class Decoder(Model):
    """A model's decoder as a one-shot model, for rows that end as latents."""

    @property
    def name(self) -> str:
        """The name of its lane."""
        return f"{self.manifest.name}/decode"


class TextEncoder(Encoder):
    """A model's text encoder as a one-shot model from tokens to numbers: all inputs that a prompt gives, in a row.

    Tokens travel as float32, which holds whole numbers up to 2^24 exactly.
    """

    @property
    def name(self) -> str:
        """The name of its lane."""
        return f"{self.manifest.name}/text"

    @property
    def row_shape(self) -> Sequence[int]:
        """The shape of a row's input: (encoders, tokens)."""
        conditioning = self.manifest.conditioning
        assert conditioning is not None
        return conditioning.encoders, conditioning.tokens

    @property
    def decoded_shape(self) -> Sequence[int]:
        """The shape of a row's result: (numbers,)."""
        return (sum(map(math.prod, text_shapes(self).values())),)


def text_shapes(model: Model) -> Mapping[str, tuple[int, ...]]:
    """The inputs that a prompt gives, by name; none for a model without prompts."""
    conditioning = model.manifest.conditioning
    return {} if conditioning is None else conditioning.text


def decoder_of(model: Model) -> Decoder | None:
    """The decoder of a model that decodes apart, else None."""
    if not model.decodes_apart:
        return None
    return Decoder(model.manifest, model.device, model.decode, None, inputs={})


def text_encoder_of(model: Model) -> TextEncoder | None:
    """The model's text encoder, None without prompts."""
    if model.encode_text is None:
        return None
    embed = partial(_embed, model.encode_text)
    return TextEncoder(model.manifest, model.device, embed, None, inputs={}, adapters=model.adapters)


def text_row(ids: Tensor, adapter: Adapter | None = None) -> RowSpec:
    """A row for a text encoder: the ``ids`` of ``Model.tokenize``, and a LoRA, which may change the encoder too."""
    conditions = None if adapter is None else Conditions({}, adapter=adapter)
    return RowSpec(0, 0, 1.0, EMPTY_PLAN, ids.float(), conditions=conditions)


def prompt_inputs(model: Model, numbers: Latent) -> dict[str, Tensor]:
    """The inputs that a prompt gives by name, from the result of its ``text_row``."""
    shapes = text_shapes(model)
    pieces = torch.split(torch.from_numpy(numbers.copy()), [math.prod(shape) for shape in shapes.values()])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}


def no_prompt(model: Model) -> dict[str, Tensor] | None:
    """What guidance leads away from without a negative prompt: zeros; None where it is the embedding of ""."""
    conditioning = model.manifest.conditioning
    if conditioning is None or not conditioning.zero_negative:
        return None
    return {name: torch.zeros(shape) for name, shape in conditioning.text.items()}


def resized(model: Model, size: Size) -> Model:
    """``model`` for pictures of another size. Raises ValueError naming the side that is not supported."""
    pipeline, (height, width) = model.manifest.pipeline, size
    if pipeline is None:
        raise ValueError(f"{model.name} makes pictures of one size")
    pipeline.sizes.require(width, height)
    channels, latent, factor = model.manifest.image_shape[0], model.manifest.latent_shape[0], pipeline.factor
    shapes = {"image_shape": (channels, height, width), "latent_shape": (latent, height // factor, width // factor)}
    inputs = {name: _of_size(name, each, size, factor) for name, each in model.inputs.items()}
    return replace(model, manifest=model.manifest.model_copy(update=shapes), inputs=inputs)


def check_row(model: Model, row: RowSpec) -> None:
    """Raise ValueError, naming the field, for a row that a model with ``conditioning`` cannot compute."""
    adapter = None if row.conditions is None else row.conditions.adapter
    if adapter is not None and adapter.name not in model.adapters:
        raise ValueError(
            f"lora {adapter.name[:64]!r} is not one of this model's: {', '.join(model.adapters) or 'none'}"
        )
    if model.manifest.needs_class:
        _require_classes(model, row)
    if model.denoise is not None:
        sized = model if row.size is None else resized(model, row.size)
        check_conditions(sized.inputs, row)


def _require_classes(model: Model, row: RowSpec) -> None:
    """Raise ValueError for "no class": its label is beyond the network's embeddings, where a GPU fails for good."""
    no_class = model.manifest.null_label
    away = no_class if row.negative_label is None else row.negative_label
    if max(row.label, away if row.weight > 1 else 0) >= no_class:
        raise ValueError(f"label: {model.name} has no class {no_class}, only 0 to {no_class - 1}")


def _embed(encode_text: object, tokens: Tensor, inputs: Inputs, adapters: Sequence[Adapter | None] = ()) -> Tensor:  # noqa: ARG001
    """All inputs that prompts give, (batch, numbers)."""
    assert callable(encode_text)
    made: Mapping[str, Tensor] = encode_text(tokens.long().clamp(min=0), adapters)
    return torch.cat([tensor.flatten(1) for tensor in made.values()], dim=1)


def _of_size(name: str, each: Input, size: Size, factor: int) -> Input:
    if len(each.shape) != 3:
        return each
    divisor = 1 if name.startswith("hint") else factor
    return each._replace(shape=(each.shape[0], size[0] // divisor, size[1] // divisor))
