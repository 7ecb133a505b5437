"""Whether pictures have the colours that their captions ask for: rules that need no network to be checked."""

import re

import torch
import torch.nn.functional as F
from torch import Tensor

#: The skin of Noto's emoji, RGB, by the words of a caption.
SKIN = {
    "light": (252, 220, 188),
    "medium-light": (228, 188, 148),
    "medium": (188, 140, 108),
    "medium-dark": (164, 108, 68),
    "dark": (116, 84, 76),
}
#: Levels, in a straight line, within which a pixel counts as skin.
NEAR_SKIN = 40.0
#: Pixels of skin below which a picture shows none.
LEAST_SKIN = 20
#: Cells of a flag on each side, and by how many levels a cell's colour is off on average in one that is recognised.
CELLS, CELL_ERROR = 8, 24.0
#: Levels by which the main colour of a heart, circle or square may be off in any channel.
COLOUR_ERROR = 48.0

COLOURED = re.compile(r"(red|orange|yellow|green|blue|purple|brown|black) (heart|circle|square)")


def rule_of(name: str) -> str | None:
    """Which rule a caption falls under: "skin tone", "flag", "colour", or none."""
    if name.count("skin tone") == 1 and ":" in name:
        return "skin tone"
    if name.startswith("flag: "):
        return "flag"
    return "colour" if COLOURED.fullmatch(name) else None


def holds(name: str, picture: Tensor, real: Tensor) -> bool:
    """Whether ``picture`` keeps the rule of ``name``; both pictures are uint8 (3, height, width)."""
    rule = rule_of(name)
    if rule == "skin tone":
        return main_skin(picture) == _tone(name)
    if rule == "flag":
        return float((_cells(picture) - _cells(real)).abs().mean()) <= CELL_ERROR
    assert rule == "colour", f"{name!r} has no colour rule"
    return float((_main_colour(picture) - _main_colour(real)).abs().max()) <= COLOUR_ERROR


def main_skin(picture: Tensor) -> str | None:
    """The skin tone of most of a picture's skin; None when it shows none."""
    tones = torch.tensor(list(SKIN.values()), dtype=torch.float32)
    distance, nearest = torch.cdist(picture.flatten(1).T.float(), tones).min(dim=1)  # (H W,)
    counts = torch.bincount(nearest[distance <= NEAR_SKIN], minlength=len(SKIN))
    return list(SKIN)[int(counts.argmax())] if int(counts.max()) >= LEAST_SKIN else None


def _tone(name: str) -> str:
    found = re.search(r"([a-z-]+) skin tone", name)
    assert found
    return found.group(1)


def _cells(picture: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(picture.float(), CELLS)


def _main_colour(picture: Tensor) -> Tensor:
    """The median colour (3,) of what is not white."""
    pixels = picture.flatten(1).float()
    painted = pixels[:, pixels.amin(dim=0) < 230]
    return painted.median(dim=1).values if painted.shape[1] else pixels.mean(dim=1)
