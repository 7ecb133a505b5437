"""How a response arranges its pictures, and which formats can show that. Computed once for each request."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from service import images
from service.api.request.negotiation import FORMAT, GIF, JPEG, ONE_IMAGE, PICTURES, WEBP
from service.api.request.schemas import Params, Task
from service.engine.rows import Film
from service.errors import FieldProblem, InvalidField
from service.settings import Settings

#: Approximate number of previews of a picture, where the request gives no interval.
PREVIEWS = 10

MEGAPIXEL = 1_000_000
_MAX_SIDE = {WEBP: images.MAX_WEBP_SIDE, JPEG: images.MAX_JPEG_SIDE}


class Layout(NamedTuple):
    """``tiles`` in reading order; a single image has ``columns`` of them, with ``gap`` pixels around each.

    ``film``: the previews that precede each picture; None where only the pictures are shown.
    """

    tiles: int
    columns: int
    gap: int
    film: Film | None = None


def layout_of(request: Task, media: str, image_shape: Sequence[int], steps: int, settings: Settings) -> Layout:
    """The layout of the response to ``request`` as ``media``, for pictures (channel, height, width) of ``steps`` steps.

    Raises InvalidField where the format cannot show it, or the response would have too many pixels.
    """
    layout = _layout(request, steps)
    _, own_height, own_width = image_shape
    height, width = images.tile_shape(layout.tiles, own_height, own_width, layout.columns, layout.gap)
    problems = [
        _size_problem(request, layout.tiles, height * width, settings)
        or _side_problem(request, media, max(height, width)),
        _format_problem(request, media),
        *_field_problems(request, media),
    ]
    if found := [problem for problem in problems if problem is not None]:
        raise InvalidField(found)
    return layout


def shows_layout(request: Task, media: str) -> bool:
    """Whether ``media`` can show the layout that ``request`` names."""
    return _format_problem(request, media) is None


def kinds_of(film: Film) -> Sequence[str]:
    """The kinds of preview that ``film`` shows of each step: xt, x0 or both."""
    return ("xt", "x0") if film.kind == "both" else (film.kind,)


def layout_params(request: Task, layout: Layout) -> Params:
    """The fields of ``request`` that decide its layout, as responses report them: scale, and those not at default."""
    params: Params = {"scale": request.scale}
    if request.layout != "auto":
        params["layout"] = request.layout
    if request.fps is not None:
        params["fps"] = request.fps
    if layout.film is not None:
        params |= {"preview_every": layout.film.every, "preview_kind": layout.film.kind}
    return params


def _layout(request: Task, steps: int) -> Layout:
    if request.layout == "film":
        film = Film(request.preview_every or max(1, steps // PREVIEWS), request.preview_kind or "both")
        columns = 1 + len(range(0, steps, film.every))
        return Layout(request.count * len(kinds_of(film)) * columns, columns, images.GAP, film)
    return Layout(request.count, request.columns, 0 if request.layout == "sprite" else images.GAP)


def _size_problem(request: Task, tiles: int, pixels: int, settings: Settings) -> FieldProblem | None:
    """The problem of a response with more pixels than the settings allow; ``pixels`` are those at scale 1."""
    limit = settings.max_megapixels * MEGAPIXEL
    if pixels * request.scale**2 <= limit:
        return None
    most = math.isqrt(int(limit) // pixels)
    message = f"{tiles} pictures at scale {request.scale} exceed {settings.max_megapixels:g} megapixels"
    return FieldProblem("#/scale", message, f"up to {most} for {tiles} pictures" if most else "fewer pictures")


def _side_problem(request: Task, media: str, side: int) -> FieldProblem | None:
    """The problem of an image wider or higher than ``media`` allows; ``side`` is its longer one at scale 1."""
    side, most = side * request.scale, _MAX_SIDE.get(media)
    if most is None or side <= most:
        return None
    return FieldProblem("#/scale", f"{side} pixels are too many for {FORMAT[media]}", f"up to {most} pixels")


def _format_problem(request: Task, media: str) -> FieldProblem | None:
    """The problem of a layout that ``media`` cannot show."""
    one_image, name = media in ONE_IMAGE, FORMAT[media]
    if request.layout == "film":
        if one_image or media == GIF:
            return None
        return FieldProblem("#/layout", f"{name} cannot show a film", "auto, list; or a format of gif, jpeg, png, webp")
    if request.count == 1 or request.layout == "auto" or one_image == (request.layout != "list"):
        return None
    message = "shows all pictures in one image" if one_image else "holds pictures one after another"
    others = sorted(FORMAT[each] for each in PICTURES if (each in ONE_IMAGE) != one_image)
    allowed = f"{'auto, grid, strip, sprite' if one_image else 'auto, list'}; or a format of {', '.join(others)}"
    return FieldProblem("#/layout", f"{name} {message}", allowed)


def _field_problems(request: Task, media: str) -> Sequence[FieldProblem]:
    """The fields that have no effect in ``media``."""
    message, problems = f"has no effect in {FORMAT[media]}", []
    if request.quality is not None and media not in (WEBP, JPEG):
        problems.append(FieldProblem("#/quality", message, "leave it out; or format webp, jpeg"))
    if request.fps is not None and media != GIF:
        problems.append(FieldProblem("#/fps", message, "leave it out; or format gif"))
    return problems
