"""The embeddings of prompts: which texts an order needs, and those that are kept from earlier ones."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from service.engine.model import Model
from service.engine.rows import Adapter

#: Most bytes of the embeddings that are kept: a few hundred of Stable Diffusion's.
MOST_BYTES = 64 << 20


class Text(NamedTuple):
    """A prompt, and the LoRA of its picture, which may change the text encoder."""

    prompt: str
    adapter: Adapter | None = None


class Embedding(NamedTuple):
    """The inputs that a prompt gives by name, and what of it was not read, as in ``Tokens``."""

    inputs: Mapping[str, Tensor]
    dropped: str = ""
    unknown: tuple[str, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(tensor.nbytes for tensor in self.inputs.values())


@dataclass(frozen=True)
class Reading:
    """The texts of an order: the embeddings ``known`` when it was made, and the texts ``missing``, to be computed."""

    known: Mapping[Text, Embedding]
    missing: Sequence[Text]


class PromptCache:
    """Embeddings by model, version and text, the least recently used dropped first; for the event loop only."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[tuple[str, str, Text], Embedding] = OrderedDict()
        self._bytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of everything that is kept."""
        return self._bytes

    def read(self, model: Model, texts: Sequence[Text]) -> Reading:
        """What is known of ``texts``, each once, in their order."""
        known: dict[Text, Embedding] = {}
        missing = []
        for text in dict.fromkeys(texts):
            found = self._kept.get(key := _key(model, text))
            if found is None:
                missing.append(text)
            else:
                self._kept.move_to_end(key)
                known[text] = found
        return Reading(known, missing)

    def keep(self, model: Model, text: Text, embedding: Embedding) -> None:
        """Keep an embedding, unless it is larger than everything that may be kept."""
        key = _key(model, text)
        if embedding.nbytes + _overhead(text, embedding) > self._most_bytes or key in self._kept:
            return
        self._kept[key] = embedding
        self._bytes += embedding.nbytes + _overhead(text, embedding)
        while self._bytes > self._most_bytes:
            (_, _, dropped), old = self._kept.popitem(last=False)
            self._bytes -= old.nbytes + _overhead(dropped, old)


def _key(model: Model, text: Text) -> tuple[str, str, Text]:
    return model.name, model.manifest.version, text


def _overhead(text: Text, embedding: Embedding) -> int:
    """Bytes of the texts, at most four for a character, and of the entry."""
    words = len(embedding.dropped) + sum(map(len, embedding.unknown))
    return 4 * (len(text.prompt) + words) + 64 * len(embedding.unknown) + 512
