"""Folders of the shape of Stable Diffusion, of any size, with random weights from a fixed seed; diffusers writes them.

The tokenizer knows the 256 bytes and no merges, so that any text is a prompt. The pictures show nothing: speed depends
on shapes, not on weights.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from service.models.diffusers.libraries import class_of

TOKENS = 77
#: A pair of tokens marks the start and the end of a prompt; the end also fills it up.
START, END = 512, 513

_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
}


class Shape(NamedTuple):
    """The sizes of a folder's networks.

    ``unet`` and ``vae`` have the channels of each level, ``groups`` those of their normalisations, and ``layers`` the
    blocks of a level. ``side`` is that of a latent. The text encoder has ``text_layers`` of ``text`` numbers.
    """

    unet: tuple[int, ...]
    vae: tuple[int, ...]
    text: int
    text_layers: int
    heads: int
    groups: int
    layers: int
    side: int

    @property
    def picture_side(self) -> int:
        """The side of a picture in pixels."""
        return self.side << (len(self.vae) - 1)


#: For trying a benchmark out.
TINY = Shape((16, 32), (8, 16), 32, 2, heads=2, groups=8, layers=1, side=16)
#: A UNet of 19.4 million parameters, which takes nearly all of the time.
SMALL = Shape((48, 96, 192, 192), (8, 16), 128, 2, heads=4, groups=16, layers=2, side=32)
#: All networks as large as those of Stable Diffusion 1.5.
STABLE_DIFFUSION = Shape((320, 640, 1280, 1280), (128, 256, 512, 512), 768, 12, heads=8, groups=32, layers=2, side=64)


def write_folder(path: Path, shape: Shape, dtype: torch.dtype = torch.float32) -> int:
    """Write a StableDiffusionPipeline of ``shape`` to ``path``; returns the number of its UNet's parameters."""
    class_of("diffusers.utils.logging", "set_verbosity_error")()
    class_of("transformers.utils.logging", "disable_progress_bar")()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2026)
        unet = _unet(shape)
        pipeline = class_of("diffusers", "StableDiffusionPipeline")(
            unet=unet,
            vae=_vae(shape),
            text_encoder=_text_encoder(shape),
            tokenizer=_tokenizer(),
            scheduler=class_of("diffusers", "DDIMScheduler")(**_SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    pipeline.to(dtype).save_pretrained(path, safe_serialization=True)
    return sum(parameter.numel() for parameter in unet.parameters())


def load_pipeline(path: Path, dtype: torch.dtype, device: str = "cpu") -> Any:  # noqa: ANN401  (diffusers has no types)
    """The folder as diffusers loads it, without a progress bar."""
    pipeline = class_of("diffusers", "StableDiffusionPipeline").from_pretrained(
        path, dtype=dtype, local_files_only=True, safety_checker=None, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _unet(shape: Shape) -> Any:  # noqa: ANN401
    levels = len(shape.unet) - 1
    return class_of("diffusers", "UNet2DConditionModel")(
        sample_size=shape.side,
        block_out_channels=shape.unet,
        down_block_types=("CrossAttnDownBlock2D",) * levels + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * levels,
        layers_per_block=shape.layers,
        norm_num_groups=shape.groups,
        attention_head_dim=shape.heads,  # the number of heads, in spite of its name
        cross_attention_dim=shape.text,
    )


def _vae(shape: Shape) -> Any:  # noqa: ANN401
    levels = len(shape.vae)
    return class_of("diffusers", "AutoencoderKL")(
        block_out_channels=shape.vae,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=shape.layers,
        norm_num_groups=min(shape.groups, shape.vae[0]),
        latent_channels=4,
        sample_size=shape.picture_side,
    )


def _text_encoder(shape: Shape) -> Any:  # noqa: ANN401
    config = class_of("transformers", "CLIPTextConfig")(
        vocab_size=END + 1,
        hidden_size=shape.text,
        intermediate_size=4 * shape.text,
        num_hidden_layers=shape.text_layers,
        num_attention_heads=max(2, shape.text // 64),
        max_position_embeddings=TOKENS,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    return class_of("transformers", "CLIPTextModel")(config)


def _tokenizer() -> Any:  # noqa: ANN401
    symbols = _byte_symbols()
    names = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    return class_of("transformers", "CLIPTokenizer")(
        vocab=vocabulary, merges=[], model_max_length=TOKENS, pad_token="<|endoftext|>"
    )


def _byte_symbols() -> list[str]:
    """The character of each byte in a byte-level vocabulary: itself if it can be printed, else one above 255."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
