"""The texts of an order: which must be read, and what they give its rows."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from service.api.order import Compute
from service.api.prompts import Embedding, PromptCache, Reading, Text
from service.api.tasks.prompt_warnings import unread_warnings
from service.engine.model import Model
from service.engine.parts import no_prompt, prompt_inputs, text_row
from service.engine.pricing import Part
from service.engine.rows import Adapter
from service.sampling.step import Inputs


@dataclass(frozen=True)
class Texts:
    """For each picture, or each point of a path: its prompt, the one that guidance leads away from (None for no
    prompt), and its LoRA. Without guidance (``guided``) nothing is led away from.
    """

    prompts: Sequence[str]
    negatives: Sequence[str | None]
    adapters: Sequence[Adapter | None]
    guided: bool

    def all(self, model: Model) -> Sequence[Text]:
        """The texts that must be read."""
        each = range(len(self.prompts))
        away = [self._away(index, model) for index in each]
        return [*map(self._own, each), *(text for text in away if text is not None)]

    def inputs(self, index: int, model: Model, known: Mapping[Text, Embedding]) -> tuple[Inputs, Inputs]:
        """The inputs of a picture, and those that guidance leads away from."""
        away = self._away(index, model)
        return known[self._own(index)].inputs, (no_prompt(model) or {}) if away is None else known[away].inputs

    def warnings(self, model: Model, known: Mapping[Text, Embedding]) -> Sequence[str]:
        """A line for what of each prompt was not read."""
        return unread_warnings(model, self._readings(known))

    def _readings(self, known: Mapping[Text, Embedding]) -> Iterator[tuple[str, Embedding]]:
        """The texts that were read, with their field."""
        for field, prompts in (("prompt", self.prompts), ("negative_prompt", self.negatives)):
            for prompt, adapter in zip(prompts, self.adapters, strict=True):
                read = known.get(Text(prompt, adapter)) if prompt else None
                if read is not None:
                    yield field, read

    def _own(self, index: int) -> Text:
        return Text(self.prompts[index], self.adapters[index])

    def _away(self, index: int, model: Model) -> Text | None:
        negative = self.negatives[index]
        if not self.guided or (negative is None and no_prompt(model) is not None):
            return None
        return Text(negative or "", self.adapters[index])


def reading_parts(reading: Reading) -> list[Part]:
    """The part of reading the texts that are missing."""
    return [Part(len(reading.missing), 1, reads=True)] if reading.missing else []


async def read_texts(model: Model, reading: Reading, cache: PromptCache, compute: Compute) -> Mapping[Text, Embedding]:
    """The embeddings of all texts; those that were missing are kept."""
    if not reading.missing:
        return reading.known
    assert model.tokenize is not None
    tokenize = model.tokenize
    tokens = await asyncio.to_thread(lambda: [tokenize(text.prompt) for text in reading.missing])
    rows = [text_row(each.ids, text.adapter) for each, text in zip(tokens, reading.missing, strict=True)]
    known = {**reading.known}
    for text, each, numbers in zip(reading.missing, tokens, await compute(rows), strict=True):
        known[text] = Embedding(prompt_inputs(model, numbers), each.dropped, each.unknown)
        cache.keep(model, text, known[text])
    return known
