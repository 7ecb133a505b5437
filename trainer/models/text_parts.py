"""The functions of a text-to-image artefact, and their conversion to functions of labels for given prompts."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from trainer.models.parts import OutputToXStart, Parts, random_times
from trainer.text.tokenizer import tokenize


@dataclass(frozen=True, kw_only=True)
class TextParts(Parts):
    """The functions of a trained text-to-image model.

    encode_text: tokens (batch, ``tokens``) int64, mask, bool -> (batch, ``tokens``, ``context``) float.
    denoise: x (batch, *latent), t (batch,) float in (0, 1], context, the weights of its tokens in [0, 1] -> predicted
        clean x_start. With a ``hint_shape`` (channel, height, width) there are two more arguments, a drawing
        (batch, *hint) in [0, 1] and its scale (batch,), which may be left out.
    decode: z (batch, *latent) -> image (batch, channel, height, width) in [-1, 1].
    """

    encode_text: nn.Module
    tokenizer: Tokenizer
    tokens: int
    context: int
    hint_shape: tuple[int, int, int] | None = None


def random_text_inputs(parts: TextParts, batch: int, generator: torch.Generator) -> dict[str, tuple[Tensor, ...]]:
    """Arguments of every part for ``batch`` rows, captions of all lengths among them."""
    assert parts.diffusion is not None
    shape = (batch, parts.tokens)
    tokens = torch.randint(parts.tokenizer.get_vocab_size(), shape, generator=generator)
    length = torch.randint(1, parts.tokens + 1, (batch, 1), generator=generator)
    mask = torch.arange(parts.tokens).expand(shape) < length
    latent = torch.randn(batch, *parts.latent_shape, generator=generator)
    context = torch.randn(batch, parts.tokens, parts.context, generator=generator)
    conditions = [context, mask.float()]
    if parts.hint_shape is not None:
        drawn = torch.rand(batch, *parts.hint_shape, generator=generator)
        conditions += [drawn.round(), torch.rand(batch, generator=generator)]
    return {
        "encode_text": (tokens, mask),
        "denoise": (latent, random_times(parts.diffusion, batch, generator), *conditions),
        "decode": (latent,),
    }


class TextXStart(OutputToXStart):
    """The prediction of a network with a caption, converted to x_start."""

    def forward(self, x: Tensor, t: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        return self.combine(x, t, self.network(x, t, context, context_mask))


class TextDecode(nn.Module):
    """The decoder of a diffusion in pixel space: the latent is the image."""

    def forward(self, z: Tensor) -> Tensor:
        return z


class OfPrompts(nn.Module):
    """A predictor of x_start for a label: the row of a prompt in each of ``inputs``."""

    def __init__(self, denoise: nn.Module, *inputs: Tensor) -> None:
        super().__init__()
        self.denoise, self.inputs = denoise, inputs

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        x_start: Tensor = self.denoise(x, t, *(rows[label] for rows in self.inputs))
        return x_start


class WithoutLabel(nn.Module):
    """A decoder that ignores its label."""

    def __init__(self, decode: nn.Module) -> None:
        super().__init__()
        self.decode = decode

    def forward(self, z: Tensor, label: Tensor) -> Tensor:  # noqa: ARG002
        image: Tensor = self.decode(z)
        return image


@torch.inference_mode()
def prompted(parts: TextParts, prompts: Sequence[str], device: torch.device, hints: Tensor | None = None) -> Parts:
    """``parts`` as a model with a class for each of ``prompts``, and after them one for each without its caption.

    ``hints`` (prompts, *hint) are drawings for a model that takes them, which the empty captions have too: guidance
    leads away from a picture of the same drawing.
    """
    assert parts.denoise is not None
    captions = [*prompts, *[""] * len(prompts)]
    tokens, mask = (each.to(device) for each in tokenize(parts.tokenizer, captions, parts.tokens))
    inputs = [parts.encode_text(tokens, mask), mask.float()]
    if hints is not None:
        inputs += [torch.cat([hints, hints]).to(device), torch.ones(len(captions), device=device)]
    return Parts(
        parts.image_shape,
        len(prompts),
        parts.latent_shape,
        decode=WithoutLabel(parts.decode),
        diffusion=parts.diffusion,
        denoise=OfPrompts(parts.denoise, *inputs),
    )
