"""Line drawings of images that resemble drawing with a mouse: thick or thin, with gaps, slightly displaced."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.compute.draws import Draws

#: Gradient of an image in [-1, 1] above which a line is drawn; training varies it.
THRESHOLD = 0.6
#: Largest displacement of a stroke in pixels.
WANDER = 1.0
#: Largest distance in pixels of an edge that counts as on the stroke.
NEAR = 2

#: How far ``moved`` changes an image: the smallest and largest size and the largest ratio of width and height,
#: as factors; the largest angle in degrees; and the largest shift as a fraction of the image.
SIZES, STRETCH, ANGLE, SHIFT = (0.5, 1.1), 1.3, 25.0, 0.15

SOBEL = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]) / 4


def edges(images: Tensor, threshold: Tensor | float = THRESHOLD) -> Tensor:
    """The edges of images (batch, channel, height, width) in [-1, 1]: (batch, 1, height, width), 0 or 1.

    An edge is a gradient above ``threshold``, a number or (batch,), that no neighbour across it exceeds. It is that of
    the channel that changes most, so that two colours of the same brightness have an edge between them.
    """
    gradient = _gradient(images)  # (B, 2, H, W)
    strength = gradient.square().sum(dim=1, keepdim=True).sqrt()
    limit = torch.as_tensor(threshold, device=images.device).reshape(-1, 1, 1, 1)
    return ((strength > limit) & (strength >= _across(strength, gradient))).float()


def strokes(images: Tensor, draws: Draws) -> Tensor:
    """Edges of images (batch, channel, height, width) in [-1, 1] as strokes (batch, 1, height, width), 0 or 1.

    The threshold varies; strokes are displaced by up to a pixel; half of the drawings are thick, a third have gaps.
    """
    batch, _, height, width = images.shape
    found = edges(images, THRESHOLD * (0.5 + draws.rand(batch)))
    moved = _wander(found, WANDER * (2 * draws.rand(batch, 2, 4, 4) - 1))
    thick = F.max_pool2d(moved, 3, 1, 1)
    drawn = torch.where(_coin(draws, batch, 0.5), thick, moved)
    kept = F.interpolate(draws.rand(batch, 1, height // 8, width // 8), (height, width), mode="bilinear") > 0.35
    return torch.where(_coin(draws, batch, 0.33), drawn * kept, drawn)


def moved(images: Tensor, draws: Draws, share: float = 1.0) -> Tensor:
    """Images (batch, channel, height, width) in [-1, 1], a ``share`` of them scaled, stretched, rotated and shifted.

    Around a moved image is white. A caption does not say where such an image is; only a drawing of it does.
    """
    batch = len(images)
    smallest, largest = SIZES
    size = smallest + (largest - smallest) * draws.rand(batch)
    stretch = STRETCH ** (draws.rand(batch) - 0.5)
    angle = math.radians(ANGLE) * (2 * draws.rand(batch) - 1)
    cos, sin = angle.cos() / size, angle.sin() / size
    linear = torch.stack([cos / stretch, sin / stretch, -sin * stretch, cos * stretch], dim=1).reshape(batch, 2, 2)
    shift = 2 * SHIFT * (2 * draws.rand(batch, 2, 1) - 1)
    grid = F.affine_grid(torch.cat([linear, linear @ shift], dim=2), list(images.shape), align_corners=False)
    changed = 1 + F.grid_sample(images - 1, grid, mode="bilinear", align_corners=False)
    return torch.where(_coin(draws, batch, share), changed, images)


def on_strokes(pictures: Tensor, drawn: Tensor) -> Tensor:
    """The fraction of each drawing's stroke pixels with an edge of the image within 2 pixels, (batch,).

    ``pictures`` is (batch, channel, height, width) in [-1, 1], ``drawn`` (batch, 1, height, width), 0 or 1; a drawing
    without strokes has the fraction 1.
    """
    near = F.max_pool2d(edges(pictures, THRESHOLD / 2), 2 * NEAR + 1, 1, NEAR)
    total = drawn.sum(dim=(1, 2, 3))
    return torch.where(total > 0, (near * drawn).sum(dim=(1, 2, 3)) / total.clamp(min=1), 1.0)


def _gradient(images: Tensor) -> Tensor:
    """The gradient (batch, 2, height, width), across and down, of the channel that changes most at each pixel."""
    batch, channel, height, width = images.shape
    kernel = torch.stack([SOBEL, SOBEL.T])[:, None].to(images)  # (2, 1, 3, 3)
    padded = F.pad(images.reshape(batch * channel, 1, height, width), (1,) * 4, mode="replicate")
    each = F.conv2d(padded, kernel).reshape(batch, channel, 2, height, width)
    strongest = each.square().sum(dim=2, keepdim=True).argmax(dim=1, keepdim=True)  # (B, 1, 1, H, W)
    return each.gather(1, strongest.expand(-1, 1, 2, -1, -1))[:, 0]


def _across(strength: Tensor, gradient: Tensor) -> Tensor:
    """The strength of the stronger of the two neighbours that lie across an edge, (batch, 1, height, width)."""
    along_x, along_y = gradient.abs().unbind(1)
    sideways, up_down = F.pad(strength, (1, 1, 0, 0)), F.pad(strength, (0, 0, 1, 1))
    horizontal = torch.maximum(sideways[..., :-2], sideways[..., 2:])
    vertical = torch.maximum(up_down[..., :-2, :], up_down[..., 2:, :])
    return torch.where((along_x >= along_y)[:, None], horizontal, vertical)


def _wander(drawn: Tensor, offset: Tensor) -> Tensor:
    """``drawn`` with every region shifted by the ``offset`` (batch, 2, cells, cells) in pixels around it."""
    batch, _, height, width = drawn.shape
    smooth = F.interpolate(offset, (height, width), mode="bilinear", align_corners=True).permute(0, 2, 3, 1)
    still = torch.eye(2, 3, device=drawn.device).expand(batch, 2, 3)
    grid = F.affine_grid(still, [batch, 1, height, width], align_corners=False)
    shifted = grid + smooth * (2 / torch.tensor([width, height], device=drawn.device))
    return F.grid_sample(drawn, shifted, mode="nearest", align_corners=False)


def _coin(draws: Draws, batch: int, share: float) -> Tensor:
    return draws.rand(batch, 1, 1, 1) < share
