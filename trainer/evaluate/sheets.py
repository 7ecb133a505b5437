"""Images in a grid with their captions below, as a PNG file."""

import io
import textwrap
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

#: Pixels of an image's side in the sheet, its margin, and the size, lines and characters per line of a caption.
SIDE, MARGIN = 96, 4
FONT_SIZE, LINES, LINE_LENGTH = 10, 3, 18
CAPTION_HEIGHT = LINES * (FONT_SIZE + 2)


def labelled_sheet(captions: Sequence[str], images: Sequence[Tensor], columns: int) -> bytes:
    """A grid of ``columns`` cells per row. A cell has an image of each of ``images`` above the other, then its caption.

    Each of ``images`` is uint8 (captions, channel, height, width). Long captions are cut.
    """
    cell = SIDE + MARGIN, len(images) * (SIDE + MARGIN) + CAPTION_HEIGHT
    rows = -(-len(captions) // columns)
    sheet = Image.new("RGB", (columns * cell[0] + MARGIN, rows * cell[1] + MARGIN), "white")
    for place, caption in enumerate(captions):
        row, column = divmod(place, columns)
        corner = column * cell[0] + MARGIN, row * cell[1] + MARGIN
        _draw_cell(sheet, corner, caption, [each[place] for each in images])
    content = io.BytesIO()
    sheet.save(content, format="png", optimize=True)
    return content.getvalue()


def _draw_cell(sheet: Image.Image, corner: tuple[int, int], caption: str, images: Sequence[Tensor]) -> None:
    left, top = corner
    for image in images:
        sheet.paste(_scaled(image), (left, top))
        top += SIDE + MARGIN
    lines = textwrap.wrap(caption, LINE_LENGTH, max_lines=LINES, placeholder=" ...")
    ImageDraw.Draw(sheet).multiline_text(
        (left + SIDE // 2, top),
        "\n".join(lines),
        fill="black",
        font=ImageFont.load_default(FONT_SIZE),
        anchor="ma",
        align="center",
        spacing=1,
    )


def _scaled(image: Tensor) -> Image.Image:
    rgb = image.expand(3, -1, -1).permute(1, 2, 0).to(torch.uint8)
    return Image.fromarray(rgb.contiguous().numpy()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
