"""A small classifier of real images whose features, from its last hidden layer, are the basis of all scores.

For images without classes it learns to predict rotations by multiples of 90 degrees (Gidaris et al. 2018).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from trainer.compute.precision import autocast
from trainer.config import Precision
from trainer.data import ImageData, to_unit_range

#: Channels at full, half, quarter and eighth resolution.
WIDTHS = (16, 32, 96, 160)
FEATURES = WIDTHS[-1]
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
SHIFT = 1
ERASED_SHARE = 0.25
#: Rotations of images without classes: by 0, 90, 180 and 270 degrees.
ROTATIONS = 4
EPOCHS = 14
#: Smallest default number of training steps: an epoch of few images has few steps.
LEAST_STEPS = 600


class Residual(nn.Module):
    """Two 3x3 convolutions with a residual connection."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.body(x)  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """A residual network with one convolution at full resolution, where the cost on a CPU is highest."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        whole, half, quarter, eighth = WIDTHS
        self.body = nn.Sequential(
            convolution(image_shape[0], whole),
            convolution(whole, half, stride=2),
            Residual(half),
            convolution(half, quarter, stride=2),
            Residual(quarter),
            convolution(quarter, eighth, stride=2),
            Residual(eighth),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(eighth, classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features (batch, 160) and logits (batch, classes) of images (batch, channel, height, width) in [-1, 1]."""
        features = self.body(images)
        return features, self.head(features)


def train_classifier(
    data: ImageData, epochs: int, seed: int, device: torch.device, precision: Precision = "fp32"
) -> Classifier:
    """A classifier of ``data``'s classes in eval mode, trained by AdamW with one learning rate cycle (Smith 2018).

    Images are shifted and partly erased but not mirrored: a mirrored shoe must not get the same features. With fewer
    than two classes it learns rotations.
    """
    torch.manual_seed(seed)
    rotating = learns_rotations(data)
    network = Classifier(data.facts.image_shape, ROTATIONS if rotating else len(data.facts.class_names))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = data.images.to(device), data.labels.to(device)
    steps = steps_per_epoch(len(images))
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, eps=1e-5, weight_decay=WEIGHT_DECAY, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * steps)
    with tqdm(total=epochs * steps, desc="evaluator", unit="step") as bar:
        for _ in range(epochs):
            for index in torch.randperm(len(images), device=device)[: steps * BATCH_SIZE].chunk(steps):
                inputs, targets = _rotated(images[index]) if rotating else (images[index], labels[index])
                loss = _descend(network, optimizer, augment(inputs), targets, precision)
                rate.step()
                bar.update()
            bar.set_postfix_str(f"loss {float(loss):.3f}")
    return network.eval().requires_grad_(False)


def learns_rotations(data: ImageData) -> bool:
    """Whether the classifier learns rotations, because there are fewer than two classes."""
    return len(data.facts.class_names) < 2


def steps_per_epoch(images: int) -> int:
    """Steps of an epoch over ``images`` images, at least 1."""
    return max(1, images // BATCH_SIZE)


def default_epochs(images: int) -> int:
    """The default number of epochs for ``images`` images: 14, or more to take ``LEAST_STEPS`` steps."""
    return max(EPOCHS, math.ceil(LEAST_STEPS / steps_per_epoch(images)))


@torch.no_grad()
def augment(images: Tensor) -> Tensor:
    """Augment uint8 (batch, channel, height, width): shift by up to one pixel, erase a patch in a quarter of them."""
    batch, _, height, width = images.shape
    padded = F.pad(images, (SHIFT,) * 4)
    y = torch.arange(height, device=images.device) + _random(2 * SHIFT + 1, batch, images.device)  # (B, H)
    x = torch.arange(width, device=images.device) + _random(2 * SHIFT + 1, batch, images.device)  # (B, W)
    rows = torch.arange(batch, device=images.device)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[rows, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2)  # (B, C, H, W)
    patch = _interval(height, batch, images.device)[:, :, None] & _interval(width, batch, images.device)[:, None, :]
    patch &= (torch.rand(batch, device=images.device) < ERASED_SHARE)[:, None, None]
    return shifted.masked_fill(patch[:, None], 128)


@torch.inference_mode()
def accuracy(network: nn.Module, data: ImageData) -> float:
    """The fraction of ``data`` that ``network`` classifies correctly; without classes, of ``data`` in all rotations."""
    device, correct, count = next(network.parameters()).device, 0, 0
    for images, labels in zip(torch.split(data.images, BATCH_SIZE), torch.split(data.labels, BATCH_SIZE), strict=True):
        inputs, targets = _all_rotations(images) if learns_rotations(data) else (images, labels)
        correct += int((network(to_unit_range(inputs.to(device)))[1].argmax(1).cpu() == targets).sum())
        count += len(targets)
    return correct / count


def chance(data: ImageData) -> float:
    """The accuracy of always predicting the most frequent class; without classes, of any one rotation."""
    return 1 / ROTATIONS if learns_rotations(data) else float(data.labels.bincount().max()) / len(data.labels)


def _all_rotations(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images (batch, channel, size, size) in each rotation, (4 * batch, ...), and the rotations (4 * batch,) int64."""
    rotated = torch.cat([images.rot90(quarters, (2, 3)) for quarters in range(ROTATIONS)])
    return rotated, torch.arange(ROTATIONS, device=images.device).repeat_interleave(len(images))


def _rotated(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each of ``images`` in a random rotation, and the rotations."""
    rotations = torch.randint(ROTATIONS, (len(images),), device=images.device)
    rows = rotations * len(images) + torch.arange(len(images), device=images.device)
    return _all_rotations(images)[0][rows], rotations


def convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution, batch normalisation and the positive part."""
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())


def _descend(
    network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, precision: Precision
) -> Tensor:
    inputs = to_unit_range(images).contiguous(memory_format=torch.channels_last)
    with autocast(inputs.device, precision):
        loss = F.cross_entropy(network(inputs)[1], labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def _random(bound: int, batch: int, device: torch.device) -> Tensor:
    return torch.randint(bound, (batch, 1), device=device)


def _interval(size: int, batch: int, device: torch.device) -> Tensor:
    """A random interval of a quarter to half of ``size`` positions, (batch, size) bool."""
    length = torch.randint(size // 4, size // 2 + 1, (batch, 1), device=device)
    start = (torch.rand(batch, 1, device=device) * (size - length + 1)).long()
    position = torch.arange(size, device=device)
    return (position >= start) & (position < start + length)
