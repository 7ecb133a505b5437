"""Colour rules of captions, which are checked without a network."""

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
#: Largest Euclidean distance in levels of a pixel that counts as skin.
NEAR_SKIN = 40.0
#: The requested tone has at least this fraction of the pixels, and of the share among all tones, that it has in the
#: real image. Brown hair has the colour of a darker skin, so the most frequent tone is the wrong one in a tenth of the
#: real images.
SKIN_KEPT = 0.5
RULES = ("skin tone", "flag", "colour")
#: Cells per side of a flag, and the largest mean error of their colours in levels for a match.
CELLS, CELL_ERROR = 8, 24.0
#: Largest error in levels of the main colour of a heart, circle or square, in any channel.
COLOUR_ERROR = 48.0

COLOURED = re.compile(r"(red|orange|yellow|green|blue|purple|brown|black) (heart|circle|square)")


def rule_of(name: str) -> str | None:
    """The rule for a caption: "skin tone", "flag", "colour", or None."""
    if name.count("skin tone") == 1 and ":" in name:
        return "skin tone"
    if name.startswith("flag: "):
        return "flag"
    return "colour" if COLOURED.fullmatch(name) else None


def holds(name: str, picture: Tensor, real: Tensor) -> bool:
    """Whether ``picture`` satisfies the rule of ``name``; both images are uint8 (3, height, width)."""
    rule = rule_of(name)
    if rule == "skin tone":
        return _has_skin(picture, real, list(SKIN).index(_tone(name)))
    if rule == "flag":
        return float((_cells(picture) - _cells(real)).abs().mean()) <= CELL_ERROR
    assert rule == "colour", f"{name!r} has no colour rule"
    return float((_main_colour(picture) - _main_colour(real)).abs().max()) <= COLOUR_ERROR


def _has_skin(picture: Tensor, real: Tensor, tone: int) -> bool:
    got, wanted = _skin(picture), _skin(real)
    share = got[tone] / got.sum().clamp(min=1)
    return bool(got[tone] >= SKIN_KEPT * wanted[tone] and share >= SKIN_KEPT * wanted[tone] / wanted.sum())


def _skin(picture: Tensor) -> Tensor:
    """The number of pixels of each skin tone, (tones,), in means of 3 x 3 pixels: grain does not change the tone."""
    smooth = F.avg_pool2d(picture.float(), 3, stride=1)
    tones = torch.tensor(list(SKIN.values()), dtype=torch.float32)
    distance, nearest = torch.cdist(smooth.flatten(1).T, tones).min(dim=1)
    return torch.bincount(nearest[distance <= NEAR_SKIN], minlength=len(SKIN))


def _tone(name: str) -> str:
    found = re.search(r"([a-z-]+) skin tone", name)
    assert found
    return found.group(1)


def _cells(picture: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(picture.float(), CELLS)


def _main_colour(picture: Tensor) -> Tensor:
    """The median colour (3,) of the pixels that are not white."""
    pixels = picture.flatten(1).float()
    painted = pixels[:, pixels.amin(dim=0) < 230]
    return painted.median(dim=1).values if painted.shape[1] else pixels.mean(dim=1)
