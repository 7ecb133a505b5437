import io

import numpy as np
import torch
from PIL import Image

from trainer.evaluate.sheets import CAPTION_HEIGHT, MARGIN, SIDE, labelled_sheet

CELL = SIDE + MARGIN


def opened(payload: bytes) -> Image.Image:
    return Image.open(io.BytesIO(payload))


def test_images_stand_above_each_other_and_the_caption_below() -> None:
    red, blue = torch.zeros(3, 3, 64, 64, dtype=torch.uint8), torch.zeros(3, 3, 64, 64, dtype=torch.uint8)
    red[:, 0], blue[:, 2] = 255, 255
    sheet = opened(labelled_sheet(["one", "two", "three"], [red, blue], columns=2))
    assert sheet.size == (2 * CELL + MARGIN, 2 * (2 * CELL + CAPTION_HEIGHT) + MARGIN)
    middle = MARGIN + SIDE // 2
    assert sheet.getpixel((middle, middle)) == (255, 0, 0)
    assert sheet.getpixel((middle, middle + CELL)) == (0, 0, 255)
    below = np.asarray(sheet)[2 * CELL + MARGIN : 2 * CELL + CAPTION_HEIGHT]
    assert below[:, :CELL].min() < 128, "the caption"
    assert sheet.getpixel((middle + CELL, middle + 2 * CELL + CAPTION_HEIGHT)) == (255, 255, 255), "no fourth image"


def test_grey_images_and_long_captions_fit() -> None:
    grey = torch.full((1, 1, 64, 64), 128, dtype=torch.uint8)
    sheet = opened(labelled_sheet(["word " * 100], [grey], columns=1))
    assert sheet.size == (CELL + MARGIN, CELL + CAPTION_HEIGHT + MARGIN)
    assert sheet.getpixel((MARGIN + 5, MARGIN + 5)) == (128, 128, 128)


def test_the_same_images_make_the_same_file() -> None:
    images = [torch.randint(256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)]
    assert labelled_sheet(["a", "b"], images, 2) == labelled_sheet(["a", "b"], images, 2)
