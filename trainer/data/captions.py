"""What captioned pictures are described by: names, keywords, the concept and the split group of each."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

#: Captions that are prepared for each picture; training draws one of them each time it meets the picture.
VARIANTS = 10
#: Of these, the first so many are the name alone, so that what evaluation asks for is what was seen most.
PLAIN = 5


@dataclass(frozen=True)
class Captions:
    """Descriptions of ``count`` pictures.

    ``names`` is the description of each, ``keywords`` what else it may be called. Pictures with the same number in
    ``concepts``, (count,) int64, are variants of one thing. ``groups`` says of each picture what it is for: "training",
    or the name of a held-out group.
    """

    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    concepts: Tensor
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: list[int]) -> "Captions":
        """The captions of these pictures, in this order."""
        return Captions(
            tuple(self.names[row] for row in rows),
            tuple(self.keywords[row] for row in rows),
            self.concepts[torch.tensor(rows, dtype=torch.int64)],
            tuple(self.groups[row] for row in rows),
        )

    def join(self, other: "Captions") -> "Captions":
        """These and then ``other``'s, whose concepts have numbers of their own."""
        concepts = torch.cat([self.concepts, other.concepts + int(self.concepts.max()) + 1])
        return Captions(self.names + other.names, self.keywords + other.keywords, concepts, self.groups + other.groups)

    def variants(self) -> list[list[str]]:
        """``VARIANTS`` captions for each picture, the same in every run: the name, and mixtures with its keywords."""
        return [_variants(name, keywords) for name, keywords in zip(self.names, self.keywords, strict=True)]


def concept_order(concepts: Tensor, generator: torch.Generator) -> Tensor:
    """An epoch's order of pictures, (count,) int64: each draw is of a concept, then of one of its pictures.

    A concept is drawn in proportion to the square root of its size. Drawn by picture, people in six skin tones are more
    than half of all; drawn evenly, each of their pictures is seen eighteen times less often than a pizza.
    """
    sizes = torch.bincount(concepts)
    weights = sizes[concepts].double().rsqrt()
    return torch.multinomial(weights, len(concepts), replacement=True, generator=generator)


def _variants(name: str, keywords: tuple[str, ...]) -> list[str]:
    draws = random.Random(name)
    others = [word for word in keywords if word.lower() != name.lower()]
    mixed = [_mixture(name, others, draws) for _ in range(VARIANTS - PLAIN)]
    return [name] * PLAIN + mixed


def _mixture(name: str, keywords: list[str], draws: random.Random) -> str:
    """The name with an article, with some of its keywords, or only keywords."""
    chosen = draws.sample(keywords, min(len(keywords), draws.randint(1, 3)))
    kind = draws.random()
    if kind < 0.3 or not chosen:
        article = "an" if name[0].lower() in "aeiou" else "a"
        return f"{draws.choice((article, 'the'))} {name}"
    if kind < 0.7:
        return " ".join([name, *chosen])
    return " ".join(chosen)
