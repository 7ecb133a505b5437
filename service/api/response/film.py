"""What one answer shows: how many tiles, in how many columns, and which steps of a film."""

from collections.abc import Sequence

from service import images
from service.api.request.layout import kinds_of
from service.engine.results import Preview
from service.engine.rows import Film


def strips(film: Film, previews: Sequence[Preview], pictures: Sequence[images.Pixels]) -> list[list[images.Pixels]]:
    """The film of each of ``pictures`` and of each kind in turn: its steps in order, and the picture last."""
    by_step = sorted(previews, key=lambda preview: preview.step)
    return [
        [*(_shown(preview, kind) for preview in by_step if preview.row == row), picture]
        for row, picture in enumerate(pictures)
        for kind in kinds_of(film)
    ]


def _shown(preview: Preview, kind: str) -> images.Pixels:
    picture = preview.x_start if kind == "x0" else preview.x_t
    assert picture is not None
    return picture
