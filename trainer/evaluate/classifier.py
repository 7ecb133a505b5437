"""A small classifier of real pictures; what it sees in its last layer but one is what generators are scored by."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from trainer.config import Precision
from trainer.data import DataError, ImageData, to_unit_range
from trainer.precision import autocast

#: Channels at whole, half, quarter and eighth resolution.
WIDTHS = (16, 32, 96, 160)
FEATURES = WIDTHS[-1]
BATCH_SIZE = 128
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 0.02
SHIFT = 1
ERASED_SHARE = 0.25


class Residual(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_convolution(width, width), _convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return x + self.body(x)  # type: ignore[no-any-return]


class Classifier(nn.Module):
    """A residual network that leaves the whole resolution after one convolution: on a CPU the pixels are the price."""

    def __init__(self, image_shape: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        whole, half, quarter, eighth = WIDTHS
        self.body = nn.Sequential(
            _convolution(image_shape[0], whole),
            _convolution(whole, half, stride=2),
            Residual(half),
            _convolution(half, quarter, stride=2),
            Residual(quarter),
            _convolution(quarter, eighth, stride=2),
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
    """A classifier of ``data``'s classes, in eval mode; Adam with one cycle of the learning rate (Smith 2018).

    Pictures are shifted and partly erased but never mirrored: a shoe that points the other way is another picture,
    and must not get the same features. Raises DataError when there are no two classes to tell apart.
    """
    if len(data.facts.class_names) < 2:
        raise DataError(f"{data.facts.name} has no classes: an evaluator learns to tell classes apart")
    torch.manual_seed(seed)
    network = Classifier(data.facts.image_shape, len(data.facts.class_names))
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    images, labels = data.images.to(device), data.labels.to(device)
    steps = max(1, len(images) // BATCH_SIZE)
    optimizer = torch.optim.AdamW(
        network.parameters(), LEARNING_RATE, eps=1e-5, weight_decay=WEIGHT_DECAY, foreach=True
    )
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs * steps)
    with tqdm(total=epochs * steps, desc="evaluator", unit="step") as bar:
        for _ in range(epochs):
            for index in torch.randperm(len(images), device=device)[: steps * BATCH_SIZE].chunk(steps):
                loss = _descend(network, optimizer, augment(images[index]), labels[index], precision)
                rate.step()
                bar.update()
            bar.set_postfix_str(f"loss {float(loss):.3f}")
    return network.eval().requires_grad_(False)


@torch.no_grad()
def augment(images: Tensor) -> Tensor:
    """uint8 (batch, channel, height, width), each shifted by up to a pixel and a quarter of them with a grey patch."""
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
    """The share of ``data`` whose class ``network`` names."""
    device, right = next(network.parameters()).device, 0
    for images, labels in zip(torch.split(data.images, BATCH_SIZE), torch.split(data.labels, BATCH_SIZE), strict=True):
        right += int((network(to_unit_range(images.to(device)))[1].argmax(1).cpu() == labels).sum())
    return right / len(data.images)


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
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
    """A random run of a quarter to half of ``size`` positions, (batch, size) bool."""
    length = torch.randint(size // 4, size // 2 + 1, (batch, 1), device=device)
    start = (torch.rand(batch, 1, device=device) * (size - length + 1)).long()
    position = torch.arange(size, device=device)
    return (position >= start) & (position < start + length)
