"""The words of a model that the trainer exported: prompts become tokens, with what of them was not read."""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from tokenizers import Tokenizer

from service.contract.artifact import read_artifact
from service.contract.files import ContractError
from service.contract.text import PADDING, UNKNOWN, TextModel, parse_words
from service.engine.model import Tokens

#: Variation selectors, which ask for a pictograph in colours or in black: names are of either.
_SELECTORS = {0xFE0E: None, 0xFE0F: None}
#: The categories of pictographs: symbols, and those that are newer than Python's table of characters.
_SYMBOLS = ("So", "Cn")
#: The most examples of prompts, and what they look like: short, a few plain words.
EXAMPLES = 24
_PLAIN = re.compile(r"(?=.{3,16}$)[a-z]+( [a-z]+){0,2}")
#: Characters before are mostly arrows and shapes.
_FIRST_EXAMPLE = "\U0001f300"


class Words:
    """A tokenizer of words, and the names of pictographs, which replace them in prompts."""

    def __init__(self, tokenizer: Tokenizer, pictographs: Mapping[str, str], tokens: int) -> None:
        self._tokenizer, self._tokens = tokenizer, tokens
        self._names = {characters.translate(_SELECTORS): name for characters, name in pictographs.items()}
        self._first = frozenset(characters[0] for characters in self._names if characters)
        self._longest = max(map(len, self._names), default=0)
        tokenizer.no_truncation()
        tokenizer.no_padding()

    def tokenize(self, prompt: str) -> Tokens:
        """The first words of ``prompt`` that have a token, (1, tokens), padded with 0; the others are in `unknown`.

        `dropped` is the text from the first word on that did not fit. Pictographs are read as their names. Raises
        ValueError for half of a surrogate pair, which is no text.
        """
        if any("\ud800" <= character <= "\udfff" for character in prompt):
            raise ValueError("the prompt has half of a surrogate pair, which is not a character")
        text = self._named(prompt)
        encoding = self._tokenizer.encode(text)
        known = [place for place, token in enumerate(encoding.ids) if token != UNKNOWN]
        kept, rest = known[: self._tokens], known[self._tokens :]
        end = encoding.offsets[rest[0]][0] if rest else len(text)
        ids = torch.full((1, self._tokens), PADDING, dtype=torch.int64)
        ids[0, : len(kept)] = torch.tensor([encoding.ids[place] for place in kept])
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        words = [text[first:last] for token, (first, last) in spans if token == UNKNOWN and last <= end]
        symbols = [character for character in text[:end] if unicodedata.category(character) in _SYMBOLS]
        return Tokens(ids, text[end:], tuple(dict.fromkeys([*words, *symbols])))

    def examples(self) -> tuple[str, ...]:
        """Up to `EXAMPLES` prompts of known words: names of single pictographs, spread evenly over all of them.

        Pictographs are in the order of Unicode, in which similar ones are neighbours.
        """
        single = (name for key, name in self._names.items() if len(key) == 1 and key >= _FIRST_EXAMPLE)
        plain = filter(_PLAIN.fullmatch, dict.fromkeys(single))
        known = [name for name in plain if UNKNOWN not in self._tokenizer.encode(name).ids]
        count = min(EXAMPLES, len(known))
        return tuple(known[(2 * index + 1) * len(known) // (2 * count)] for index in range(count))

    def _named(self, prompt: str) -> str:
        """``prompt`` with the names of its pictographs, the longest that begins at each place, and single spaces."""
        return " ".join("".join(self._pieces(prompt.translate(_SELECTORS))).split())

    def _pieces(self, prompt: str) -> Iterator[str]:
        place = 0
        while place < len(prompt):
            found = self._pictograph(prompt, place) if prompt[place] in self._first else ""
            yield f" {self._names[found]} " if found else prompt[place]
            place += len(found) or 1

    def _pictograph(self, prompt: str, place: int) -> str:
        """The longest pictograph at ``place``; "" if none begins there."""
        ends = range(min(len(prompt), place + self._longest), place, -1)
        return next((prompt[place:end] for end in ends if prompt[place:end] in self._names), "")


def load_words(directory: Path, text: TextModel) -> Words:
    """The words of the model in ``directory``, from the bytes that were checked. Raises ContractError."""
    path = directory / text.words.file
    try:
        words = parse_words(read_artifact(directory, text.words))
        tokenizer = Tokenizer.from_str(json.dumps(words.tokenizer))
    except ContractError:
        raise
    except Exception as failure:  # the tokenizers library raises plain Exceptions
        raise ContractError(path, f"not a file of words: {failure}") from failure
    largest = max(tokenizer.get_vocab().values(), default=0)
    if largest >= text.vocabulary:  # on a GPU such a token would end the process
        raise ContractError(path, f"token {largest}, but the text encoder has {text.vocabulary}")
    if tokenizer.id_to_token(UNKNOWN) is None or not tokenizer.encode("").ids:
        raise ContractError(path, "its tokenizer has no token for unknown words, or none for the start of a prompt")
    return Words(tokenizer, words.pictographs, text.tokens)
