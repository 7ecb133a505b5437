"""The networks of the text evaluator, one for images and one for captions: a pair has similar embeddings.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (CLIP), at the size of an
emoji. They are trained on the training split alone, so that they have not memorised the held-out captions.
"""

import math

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn
from tqdm import tqdm

from trainer.compute.precision import autocast
from trainer.config import Precision
from trainer.data import ImageData, to_unit_range
from trainer.data.captions import VARIANTS
from trainer.evaluate.classifier import Residual, convolution
from trainer.models.text_encoder import TextEncoder
from trainer.text.tokenizer import tokenize, train_tokenizer, words_of_captions

#: Channels at half, quarter, eighth and sixteenth resolution.
WIDTHS = (24, 64, 128, 192)
FEATURES, EMBEDDING = WIDTHS[-1], 128
VOCABULARY, TOKENS = 4096, 24
BATCH_SIZE = 256
LEARNING_RATE = 2e-3
EPOCHS = 40
#: Largest standard deviation of the noise added in training, so that the grain of generated images has no effect.
NOISE = 0.15
SHIFT = 3
LARGEST_SCALE = 100.0


class PictureTower(nn.Module):
    """``forward(images)``: (batch, channel, height, width) in [-1, 1] -> features (batch, 192), embedding (batch, 128).

    The embedding has length 1. Height and width are multiples of 16.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter, eighth, sixteenth = WIDTHS
        self.body = nn.Sequential(
            convolution(channels, half, stride=2),
            convolution(half, quarter, stride=2),
            Residual(quarter),
            convolution(quarter, eighth, stride=2),
            Residual(eighth),
            convolution(eighth, sixteenth, stride=2),
            Residual(sixteenth),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(FEATURES, EMBEDDING)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        features = self.body(images)
        return features, F.normalize(self.head(features), dim=1)


class CaptionTower(nn.Module):
    """``forward(tokens, mask)``: (batch, tokens) int64, bool -> embedding (batch, 128) of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = TextEncoder(VOCABULARY, TOKENS, EMBEDDING, layers=2, dropout=0.1)
        self.head = nn.Linear(EMBEDDING, EMBEDDING)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:  # noqa: D102
        return F.normalize(self.head(self.encoder(tokens, mask)[:, 0]), dim=1)


class Towers(nn.Module):
    """Both networks, and the scale of their products in the logits."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.picture, self.caption = PictureTower(channels), CaptionTower()
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def loss(self, pictures: Tensor, captions: Tensor) -> Tensor:
        """Cross-entropy of selecting each image's caption in the batch, and each caption's image."""
        logits = self.log_scale.exp().clamp(max=LARGEST_SCALE) * pictures @ captions.T
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def train_towers(
    data: ImageData, epochs: int, seed: int, device: torch.device, precision: Precision = "fp32"
) -> tuple[Towers, Tokenizer]:
    """Towers of captioned ``data``, in eval mode, and the tokenizer of the captions."""
    assert data.captions is not None
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(words_of_captions(data.captions), VOCABULARY, TOKENS)
    captions = [caption for variants in data.captions.variants() for caption in variants]
    tokens, mask = (
        each.view(len(data.captions), VARIANTS, TOKENS).to(device) for each in tokenize(tokenizer, captions, TOKENS)
    )
    images = data.images.to(device)
    network = Towers(data.facts.image_shape[0]).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    batch = min(BATCH_SIZE, len(images))
    steps = epochs * (len(images) // batch)
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.05, fused=True)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    with tqdm(total=steps, desc="towers", unit="step") as bar:
        for _ in range(epochs):
            for index in torch.split(torch.randperm(len(images), device=device), batch)[: len(images) // batch]:
                variant = torch.randint(VARIANTS, (batch,), device=device)
                with autocast(device, precision):
                    pairs = _embed(network, augment(images[index]), tokens[index, variant], mask[index, variant])
                loss = network.loss(*(each.float() for each in pairs))
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                rate.step()
                bar.update()
            bar.set_postfix_str(f"loss {float(loss.detach()):.3f}")
    return network.eval().requires_grad_(False), tokenizer


@torch.no_grad()
def augment(images: Tensor) -> Tensor:
    """uint8 (batch, channel, height, width) to float32 in [-1, 1], shifted, scaled, with noise of random strength."""
    batch, _, height, _ = images.shape
    random = torch.rand(batch, 4, device=images.device)
    scale = 0.9 + 0.2 * random[:, 0]
    shift = (random[:, 1:3] - 0.5) * (4 * SHIFT / height)
    theta = torch.zeros(batch, 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    # grid_sample pads with zero, so white must be 0.
    from_white = to_unit_range(images) - 1.0
    moved = F.grid_sample(
        from_white, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False
    )
    return moved + 1.0 + NOISE * random[:, 3, None, None, None] * torch.randn_like(moved)


def _embed(network: Towers, images: Tensor, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings of pictures and of their captions, (batch, 128) each."""
    _, pictures = network.picture(images.contiguous(memory_format=torch.channels_last))
    return pictures, network.caption(tokens, mask)
