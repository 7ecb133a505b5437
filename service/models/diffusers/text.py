"""Prompts: tokens, and the embeddings that a pipeline makes of them."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from service.engine.model import Tokens
from service.engine.rows import Adapter
from service.models.diffusers.components import Component
from service.models.diffusers.configs import TextModel
from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import TextPart
from service.models.diffusers.libraries import class_of
from service.models.diffusers.lora import Adapters


class Tokenizers:
    """The tokenizers of a folder, one or SDXL's two; a prompt has `tokens` tokens in each."""

    def __init__(self, tokenizers: Sequence[Any], tokens: int) -> None:
        self._tokenizers = tokenizers
        self._lock = threading.Lock()  # a call sets a tokenizer's padding and truncation, which the next call reads
        self.tokens = tokens

    def tokenize(self, prompt: str) -> Tokens:
        """`prompt` padded or cut to `tokens` tokens, as the pipeline does.

        Raises:
            ValueError: the prompt has half of a surrogate pair, which is no text.
        """
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ValueError("the prompt has half of a surrogate pair, which is not a character")
        with self._lock:
            pairs = [self._cut(tokenizer, prompt) for tokenizer in self._tokenizers]
        return Tokens(torch.stack([ids for ids, _ in pairs]), next((dropped for _, dropped in pairs if dropped), ""))

    def _cut(self, tokenizer: Any, prompt: str) -> tuple[Tensor, str]:
        last = self.tokens - 1
        cut = tokenizer(prompt, padding="max_length", max_length=self.tokens, truncation=True, return_tensors="pt")
        whole: list[int] = tokenizer(prompt, verbose=False).input_ids
        dropped = tokenizer.decode(whole[last:-1]) if len(whole) > self.tokens else ""
        return cut.input_ids[0], str(dropped)


class TextEncoder:
    """The tokenizers and text encoders of a folder, one pair or SDXL's two.

    `zero_negative` says that a request without a negative prompt is guided away from zeros instead of the empty prompt.
    """

    def __init__(
        self, tokenizers: Sequence[Any], encoders: Sequence[Any], adapters: Adapters, *, xl: bool, zero_negative: bool
    ) -> None:
        self.zero_negative = zero_negative
        self._encoders = encoders
        self._adapters = adapters
        self._xl = xl
        # A tokenizer that says nothing has a maximum of 10^30.
        self.tokens = min(encoders[0].config.max_position_embeddings, *(one.model_max_length for one in tokenizers))
        self.tokenize = Tokenizers(tokenizers, self.tokens).tokenize
        self.shapes: Mapping[str, tuple[int, ...]] = {
            "context": (self.tokens, sum(encoder.config.hidden_size for encoder in encoders))
        }
        if xl:
            self.shapes = {**self.shapes, "pooled": (encoders[-1].config.projection_dim,)}

    @torch.inference_mode()
    def encode(self, ids: Tensor, adapters: Sequence[Adapter | None] = ()) -> dict[str, Tensor]:
        """The inputs of `denoise` that prompts give: `context` (batch, tokens, width), and SDXL's `pooled`, float32.

        Args:
            ids: (batch, encoders, tokens) int64.
            adapters: one LoRA or None per row; () for none. A LoRA file may change the text encoders too.
        """
        device = self._encoders[0].device
        with self._adapters.rows(adapters, len(ids), device):
            outputs = [
                encoder(ids[:, index].to(device), output_hidden_states=self._xl, return_dict=True)
                for index, encoder in enumerate(self._encoders)
            ]
        if not self._xl:
            return {"context": outputs[0][0].float()}
        context = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return {"context": context.float(), "pooled": outputs[-1][0].float()}

    def no_negative(self) -> dict[str, Tensor] | None:
        """The inputs, without a batch, of a request without a negative prompt; None where they are those of ""."""
        if not self.zero_negative:
            return None
        return {name: torch.zeros(shape) for name, shape in self.shapes.items()}


def load_tokenizer(text: TextPart) -> Any:
    """The tokenizer of `text`. Raises FolderError where it cannot be built, or has tokens that the encoder lacks."""
    try:
        tokenizer = class_of("transformers", "CLIPTokenizer").from_pretrained(
            str(text.tokenizer), local_files_only=True, trust_remote_code=False
        )
    except Exception as failure:  # the tokenizers library raises plain Exceptions
        raise FolderError(text.tokenizer, f"{type(failure).__name__}: {failure}") from failure
    _check_vocabulary(tokenizer, text.encoder, text)
    return tokenizer


def _check_vocabulary(tokenizer: Any, encoder: Component[TextModel], text: TextPart) -> None:
    largest = max(tokenizer.get_vocab().values())
    if largest >= encoder.config.vocab_size:
        raise FolderError(text.tokenizer, f"token {largest}, but the text encoder has {encoder.config.vocab_size}")
