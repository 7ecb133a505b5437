"""Noto's emoji, rendered from the font's bitmaps, with the names and keywords of Unicode's CLDR.

Debian packages: fonts-noto-color-emoji and unicode-cldr-core. Two groups are held out, the same in every run:
"combination", whose words and concept all occur in training but never together, and "unseen", whose names have a word
that no training caption has.
"""

import hashlib
import io
import re
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, features
from torch import Tensor

from trainer.data.captions import Captions
from trainer.data.images import DataError, DataFacts, ImageData, split_name

SIZE = 64
FONT, PACKAGES = "NotoColorEmoji.ttf", "fonts-noto-color-emoji and unicode-cldr-core"
DEBIAN_FONT = Path("/usr/share/fonts/truetype/noto") / FONT
DEBIAN_CLDR = Path("/usr/share/unicode/cldr/common")
#: As /usr/share/doc/<package>/copyright says of the font and of the annotations.
LICENCE = "SIL-1.1 (the font), Unicode-DFS-2016 (names and keywords)"
SOURCE = f"Debian's {PACKAGES}"

#: The size of the font's bitmaps, and the square that contains one.
FONT_SIZE, CANVAS = 109, 136

HELD_OUT_COMBINATIONS, HELD_OUT_NAMES = 200, 50
#: A combination is held out only if so many training images of its concept and of each of its words remain.
LEFT_IN_TRAINING = 4

SKIN_TONES = re.compile("[\U0001f3fb-\U0001f3ff]")
#: Gender signs after a joiner, and the gender-neutral forms of people and children.
GENDERS = re.compile("\u200d[\u2640\u2642]")
NEUTRAL = str.maketrans(
    {"\U0001f468": "\U0001f9d1", "\U0001f469": "\U0001f9d1", "\U0001f466": "\U0001f9d2", "\U0001f467": "\U0001f9d2"}
)


@dataclass(frozen=True)
class Emoji:
    """One emoji: its characters, its name, its other names, its picture, uint8 (3, SIZE, SIZE)."""

    characters: str
    name: str
    keywords: tuple[str, ...]
    picture: Tensor

    @property
    def concept(self) -> str:
        """The characters without skin tone and gender, equal for all variants."""
        return GENDERS.sub("", SKIN_TONES.sub("", self.characters)).translate(NEUTRAL)

    @property
    def words(self) -> set[str]:
        """The words of its name."""
        return words_of(self.name)

    @property
    def all_words(self) -> set[str]:
        """The words of its name and of its keywords."""
        return self.words.union(*map(words_of, self.keywords))


def words_of(text: str) -> set[str]:
    """The words of a caption, in lower case."""
    return set(re.findall(r"\w+", text.lower()))


def load_emoji(data_dir: Path | None = None, *, train: bool = True) -> ImageData:
    """Render the emoji on white, ``SIZE`` pixels high and wide.

    ``data_dir`` contains NotoColorEmoji.ttf and CLDR's annotations/en.xml and annotationsDerived/en.xml; the default is
    where Debian installs them. The test split is the two held-out groups. Raises DataError.
    """
    font, cldr = _paths(data_dir)
    emoji = read_emoji(font, cldr)
    groups = split(emoji)
    rows = [row for row, group in enumerate(groups) if (group == "training") == train]
    if not rows:
        raise DataError(f"{cldr}: none of {len(emoji)} emoji is a {split_name(train)} image")
    images = torch.stack([emoji[row].picture for row in rows])
    facts = DataFacts("emoji", (3, SIZE, SIZE), (), LICENCE, SOURCE, len(rows))
    provenance = f"{len(rows):,} captioned {split_name(train)} images drawn from {font}, names from {cldr}"
    captions = _captions(emoji, groups).select(rows)
    return ImageData(facts, images, torch.arange(len(rows)), provenance, captions=captions)


def read_pictographs(data_dir: Path | None) -> dict[str, str]:
    """The names of all emoji by their characters, held-out ones among them. Raises DataError."""
    emoji = read_emoji(*_paths(data_dir))
    return {each.characters: each.name for each in emoji if not each.characters.isascii()}


def _paths(data_dir: Path | None) -> tuple[Path, Path]:
    """The font, and the folder of names."""
    return (DEBIAN_FONT, DEBIAN_CLDR) if data_dir is None else (data_dir / FONT, data_dir)


def read_emoji(font: Path, cldr: Path, language: str = "en") -> list[Emoji]:
    """All emoji with a bitmap in ``font`` and a name under ``cldr``, in CLDR's order. Raises DataError."""
    names, keywords = _annotations(cldr, language)
    glyphs = _open_font(font)
    drawn = [(characters, _draw(characters, glyphs)) for characters in names]
    found = [
        Emoji(characters, names[characters], keywords.get(characters, ()), picture)
        for characters, picture in drawn
        if picture is not None
    ]
    if not found:
        raise DataError(f"{font} has no bitmap for any of the {len(names)} names under {cldr}")
    return found


def split(emoji: list[Emoji]) -> tuple[str, ...]:
    """The group of each: "training", "combination" or "unseen". It depends only on their characters and names."""
    by_hash = sorted(range(len(emoji)), key=lambda row: hashlib.sha256(emoji[row].characters.encode()).digest())
    groups = ["training"] * len(emoji)
    _hold_out_names(emoji, by_hash, groups)
    _hold_out_combinations(emoji, by_hash, groups)
    return tuple(groups)


def _hold_out_names(emoji: list[Emoji], order: list[int], groups: list[str]) -> None:
    """Hold out emoji without variants whose name has a unique word; at most a twentieth, and no flags."""
    uses = Counter(word for each in emoji for word in each.all_words)
    sizes = Counter(each.concept for each in emoji)
    most = min(HELD_OUT_NAMES, len(emoji) // 20)
    candidates = [
        row
        for row in order
        if sizes[emoji[row].concept] == 1
        and not emoji[row].name.startswith("flag:")
        and any(uses[word] == 1 and word.isalpha() and len(word) > 2 for word in emoji[row].words)
    ]
    for row in candidates[:most]:
        groups[row] = "unseen"


def _hold_out_combinations(emoji: list[Emoji], order: list[int], groups: list[str]) -> None:
    """Hold out variants while enough training images of their concept and of each of their words remain."""
    training = [each for each, group in zip(emoji, groups, strict=True) if group == "training"]
    uses = Counter(word for each in training for word in each.words)
    sizes = Counter(each.concept for each in training)
    # The copy of a training image would not be unseen.
    copies = Counter(each.picture.numpy().tobytes() for each in emoji)
    left = min(HELD_OUT_COMBINATIONS, len(emoji) // 10)
    for row in order:
        each = emoji[row]
        varied = ":" in each.name and sizes[each.concept] > LEFT_IN_TRAINING
        if left == 0 or groups[row] != "training" or not varied or copies[each.picture.numpy().tobytes()] > 1:
            continue
        if all(uses[word] > LEFT_IN_TRAINING for word in each.words):
            groups[row], left = "combination", left - 1
            uses.subtract(each.words)
            sizes[each.concept] -= 1


def _captions(emoji: list[Emoji], groups: tuple[str, ...]) -> Captions:
    numbers = {concept: number for number, concept in enumerate(dict.fromkeys(each.concept for each in emoji))}
    return Captions(
        tuple(each.name for each in emoji),
        tuple(each.keywords for each in emoji),
        torch.tensor([numbers[each.concept] for each in emoji]),
        groups,
    )


def _annotations(cldr: Path, language: str) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Names and keywords by characters."""
    names: dict[str, str] = {}
    keywords: dict[str, tuple[str, ...]] = {}
    for folder in ("annotations", "annotationsDerived"):
        path = cldr / folder / f"{language}.xml"
        try:
            entries = ElementTree.parse(path).iter("annotation")
        except (OSError, ElementTree.ParseError) as failure:
            raise DataError(
                f"{path} cannot be read ({failure}): install Debian's {PACKAGES}, or give --data-dir"
            ) from failure
        for entry in entries:
            characters, text = entry.get("cp", ""), (entry.text or "").strip()
            if entry.get("type") == "tts":
                names[characters] = text
            else:
                keywords[characters] = tuple(word.strip() for word in text.split("|"))
    return names, keywords


def _open_font(path: Path) -> ImageFont.FreeTypeFont:
    if not features.check("raqm"):
        raise DataError("Pillow was built without Raqm, which combines the characters of an emoji: install its wheel")
    try:
        # Read here, because Pillow searches other folders for the font if the path does not exist.
        return ImageFont.truetype(io.BytesIO(path.read_bytes()), FONT_SIZE, layout_engine=ImageFont.Layout.RAQM)
    except OSError as failure:
        raise DataError(
            f"{path} cannot be read ({failure}): install Debian's {PACKAGES}, or give --data-dir"
        ) from failure


def _draw(characters: str, font: ImageFont.FreeTypeFont) -> Tensor | None:
    """uint8 (3, SIZE, SIZE) on white; None if the font has no single bitmap for the characters."""
    _, top, right, bottom = font.getbbox(characters)
    if bottom <= top or right > CANVAS:
        return None
    canvas = Image.new("RGB", (CANVAS, CANVAS), "white")
    ImageDraw.Draw(canvas).text((0, (CANVAS - bottom) // 2), characters, font=font, embedded_color=True)
    pixels = np.array(canvas.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
