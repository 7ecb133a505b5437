"""Warnings about what of a prompt or a sketch was not read."""

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from service.api.prompts import Embedding
from service.engine.model import Model

#: Most characters of a prompt in a warning.
MOST_SHOWN = 200
#: The share of stroke pixels above which a sketch is probably white on black.
MOSTLY_DARK = 0.5


def unread_warnings(model: Model, readings: Iterable[tuple[str, Embedding]]) -> Sequence[str]:
    """A line for each prompt that did not fit or has unknown words, with its field; equal lines once."""
    conditioning = model.manifest.conditioning
    assert conditioning is not None
    lines: dict[str, None] = {}
    for field, read in readings:
        if read.dropped:
            dropped = _shown(read.dropped)
            lines[f"{field}: only the first {conditioning.words} tokens are read; dropped: {dropped}"] = None
        if read.unknown:
            lines[f"{field}: unknown words are ignored: {_shown(', '.join(read.unknown))}"] = None
    return [*lines]


def sketch_warnings(hint: Tensor | None) -> Iterator[str]:
    """A line for a drawing (1, height, width) without strokes, and for one that is mostly dark."""
    if hint is None or len(hint) != 1:
        return
    share = float(hint.mean())
    if share == 0:
        yield "control_image: it has no strokes; a sketch is dark on white"
    if share > MOSTLY_DARK:
        yield f"control_image: {share:.0%} of it is dark; a sketch is dark on white"


def _shown(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
