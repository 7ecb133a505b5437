"""What one answer shows: how many tiles, in how many columns, and which steps of a film."""

from collections.abc import Sequence
from typing import NamedTuple

from service import images
from service.api.schemas import Params, Task
from service.engine.results import Preview
from service.engine.rows import Film

#: About so many previews of a picture, where the client does not say.
PREVIEWS = 10


class Sheet(NamedTuple):
    """``tiles`` of them in reading order, with ``gap`` pixels around each where one image shows them all."""

    tiles: int
    columns: int
    gap: int


def sheet_of(asked: Task, steps: int) -> Sheet:
    """The tiles of the answer to ``asked``, whose pictures take so many steps."""
    film = film_of(asked, steps)
    if film is not None:
        columns = 1 + len(range(0, steps, film.every))
        return Sheet(asked.count * len(kinds_of(film)) * columns, columns, images.GAP)
    return Sheet(asked.count, asked.columns, 0 if asked.layout == "sprite" else images.GAP)


def film_of(asked: Task, steps: int) -> Film | None:
    """The film that ``asked`` wants for its answer; None where it wants none."""
    if asked.layout != "film":
        return None
    return Film(asked.preview_every or max(1, steps // PREVIEWS), asked.preview_kind or "both")


def kinds_of(film: Film) -> Sequence[str]:
    """What ``film`` shows of each step: one or both of xt and x0."""
    return ("xt", "x0") if film.kind == "both" else (film.kind,)


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


def shown_params(asked: Task, film: Film | None) -> Params:
    """The fields that say how ``asked`` has its pictures shown, where they are not the usual."""
    params: Params = {}
    if asked.layout != "auto":
        params["layout"] = asked.layout
    if asked.fps is not None:
        params["fps"] = asked.fps
    if film is not None:
        params |= {"preview_every": film.every, "preview_kind": film.kind}
    return params
