"""How much pictures are enlarged where the person does not say it: small models make pictures of 28 x 28 pixels."""

import math
from typing import Any

#: Formats that people look at; the others are for programs, which get the model's own pixels.
_SEEN = ("png", "webp", "jpeg", "gif")
#: The most pixels of the width of one picture, of pictures side by side, and of all pictures of an answer.
PICTURE, SHEET, ALL = 256, 1600, 3_000_000
#: Steps of a film whose request names none. Its frames are every tenth of the steps, 20 or fewer.
_STEPS = 20


def is_enlarged(fields: dict[str, Any], format: str) -> bool:
    """Whether an answer in ``format`` gets a scale that ``fields`` do not have."""
    return format in _SEEN and not {"scale", "width", "height"} & fields.keys()


def comfortable_scale(fields: dict[str, Any], format: str, height: int, width: int) -> int:
    """The scale for a request with ``fields``, for pictures of this size; with ``frames`` they are those of a path.

    Fields that the service will reject count as absent.
    """
    tiles, columns = _arranged(fields)
    if format == "gif":  # one after another
        columns = 1
    most = math.isqrt(ALL // (tiles * height * width))
    return max(1, min(PICTURE // width, SHEET // (columns * width), most))


def _arranged(fields: dict[str, Any]) -> tuple[int, int]:
    """How many pictures the answer has, and how many side by side."""
    if "frames" in fields:
        frames = _number(fields, "frames", 1)
        return frames, frames
    count = _number(fields, "n", 1)
    if fields.get("layout") != "film":
        return count, math.ceil(math.sqrt(count))
    steps = _number(fields, "steps", _STEPS)
    columns = 1 + math.ceil(steps / _number(fields, "preview_every", max(1, steps // 10)))
    return 2 * count * columns, columns


def _number(fields: dict[str, Any], name: str, default: int) -> int:
    value = fields.get(name)
    return value if type(value) is int and value > 0 else default
