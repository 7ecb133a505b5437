"""How an answer lays its pictures out: tiles, columns, film; and which formats can show it."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service import images
from service.api.request.negotiation import FORMAT, GIF, JPEG, ONE_IMAGE, PICTURES, WEBP
from service.api.request.schemas import Params, Task
from service.engine.model import Model
from service.engine.rows import Film
from service.errors import FieldProblem, InvalidField
from service.images import tile_shape
from service.settings import Settings

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


_SIDES = {WEBP: images.MAX_WEBP_SIDE, JPEG: images.MAX_JPEG_SIDE}


def check_form(asked: Task, media: str, image_shape: tuple[int, int, int], steps: int) -> None:
    """Raise InvalidField where ``media`` cannot be what layout and quality ask for, or so many pixels wide or high."""
    problems, name = [], FORMAT[media]
    if problem := _layout_problem(asked, media):
        problems.append(problem)
    if asked.quality is not None and media not in _SIDES:
        problems.append(FieldProblem("#/quality", f"means nothing to {name}", "leave it out; or format webp, jpeg"))
    if asked.fps is not None and media != GIF:
        problems.append(FieldProblem("#/fps", f"means nothing to {name}", "leave it out; or format gif"))
    if media in _SIDES:
        sheet, (_, height, width) = sheet_of(asked, steps), image_shape
        side = asked.scale * max(images.tile_shape(sheet.tiles, height, width, sheet.columns, sheet.gap))
        if side > _SIDES[media]:
            problems.append(FieldProblem("#/scale", f"{side} pixels are too many for {name}", f"up to {_SIDES[media]}"))
    if problems:
        raise InvalidField(problems)


def shows_layout(asked: Task, media: str) -> bool:
    """Whether an answer of type ``media`` can be what the layout asks for."""
    return _layout_problem(asked, media) is None


def _layout_problem(asked: Task, media: str) -> FieldProblem | None:
    """What is wrong with the layout of an answer of type ``media``."""
    together, name = media in ONE_IMAGE, FORMAT[media]
    if asked.layout == "film":
        shown = together or media == GIF
        problem = FieldProblem("#/layout", f"{name} shows no film", "auto, list; or a format of gif, jpeg, png, webp")
        return None if shown else problem
    if asked.count == 1 or asked.layout == "auto" or together == (asked.layout != "list"):
        return None
    says = "shows all pictures in one image" if together else "holds pictures one after another"
    others = sorted(FORMAT[each] for each in PICTURES if (each in ONE_IMAGE) != together)
    allowed = f"{'auto, grid, strip, sprite' if together else 'auto, list'}; or a format of {', '.join(others)}"
    return FieldProblem("#/layout", f"{name} {says}", allowed)


MEGAPIXEL = 1_000_000


def check_size(request: Task, model: Model, steps: int, settings: Settings) -> None:
    """Raise InvalidField where the answer would have more pixels than one may have."""
    _, height, width = model.manifest.image_shape
    sheet = sheet_of(request, steps)
    rows, columns = tile_shape(sheet.tiles, height, width, sheet.columns, sheet.gap)
    if rows * columns * request.scale**2 > settings.max_megapixels * MEGAPIXEL:
        most = math.isqrt(int(settings.max_megapixels * MEGAPIXEL) // (rows * columns))
        limit = f"{settings.max_megapixels:g} megapixels"
        message = f"{sheet.tiles} pictures at scale {request.scale} are more than {limit}"
        allowed = f"up to {most} for {sheet.tiles} pictures" if most else "fewer pictures"
        raise InvalidField.of("scale", message, allowed)
