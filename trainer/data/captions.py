"""Descriptions of captioned images: name, keywords, concept and split group of each."""

import random
from dataclasses import dataclass

import torch
from torch import Tensor

#: Number of captions prepared for each image; training draws one of them each time it uses the image.
VARIANTS = 10
#: So many of them, the first ones, are the name alone: evaluation uses the names, so training sees them most.
PLAIN = 5


@dataclass(frozen=True)
class Captions:
    """Descriptions of ``count`` images.

    ``names`` are their descriptions, ``keywords`` alternative ones. Images with the same number in ``concepts``,
    (count,) int64, are variants of one concept. ``groups`` are "training" or the name of a held-out group.
    """

    names: tuple[str, ...]
    keywords: tuple[tuple[str, ...], ...]
    concepts: Tensor
    groups: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def select(self, rows: list[int]) -> "Captions":
        """The captions of the images ``rows``, in that order."""
        return Captions(
            tuple(self.names[row] for row in rows),
            tuple(self.keywords[row] for row in rows),
            self.concepts[torch.tensor(rows, dtype=torch.int64)],
            tuple(self.groups[row] for row in rows),
        )

    def join(self, other: "Captions") -> "Captions":
        """These captions followed by ``other``'s, whose concepts get new numbers."""
        concepts = torch.cat([self.concepts, other.concepts + int(self.concepts.max()) + 1])
        return Captions(self.names + other.names, self.keywords + other.keywords, concepts, self.groups + other.groups)

    def variants(self) -> list[list[str]]:
        """``VARIANTS`` captions for each image, the same in every run: the name, and mixtures with its keywords."""
        return [_variants(name, keywords) for name, keywords in zip(self.names, self.keywords, strict=True)]


def concept_order(concepts: Tensor, generator: torch.Generator) -> Tensor:
    """The order of the images in an epoch, (count,) int64, drawn with replacement: a concept, then one of its images.

    The probability of a concept is proportional to the square root of its size. With equal probabilities of images,
    people in six skin tones are more than half of all; with equal probabilities of concepts, each of their images is
    seen eighteen times less often than a pizza.
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
