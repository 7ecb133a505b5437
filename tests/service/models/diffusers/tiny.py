"""Tiny diffusers folders with random weights, one builder per kind of pipeline; each takes a fraction of a second.

The latents have 8 x 8 pixels and the pictures 16 x 16. The tokenizer knows the 256 bytes and no merges, so that any
text is a prompt and one letter is one token; 16 tokens fit.
"""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from service.models.diffusers.libraries import class_of

#: Tokens of a prompt, two of which mark its start and its end.
TOKENS = 16
LATENT_SIDE = 8
IMAGE_SIDE = 16
NAMES = (
    "ddpm",
    "ddim",
    "classes",
    "sd",
    "sd_v",
    "sd_img2img",
    "inpaint",
    "inpaint9",
    "control",
    "sdxl",
    "sdxl_img2img",
    "lcm",
    "turbo",
)

_STABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_LEADING = {**_STABLE, "steps_offset": 1, "clip_sample": False, "set_alpha_to_one": False}


def diffusers_class(name: str) -> Any:
    return class_of("diffusers", name)


def _byte_symbols() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary (GPT-2)."""
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


@cache
def vocabulary() -> dict[str, int]:
    symbols = _byte_symbols()
    names = [*symbols, *(f"{symbol}</w>" for symbol in symbols), "<|startoftext|>", "<|endoftext|>"]
    return {name: index for index, name in enumerate(names)}


def tokenizer(pad: str = "<|endoftext|>") -> Any:
    return class_of("transformers", "CLIPTokenizer")(
        vocab=vocabulary(), merges=[], model_max_length=TOKENS, pad_token=pad
    )


def text_encoder(width: int = 16, projection: int | None = None) -> Any:
    """A CLIPTextModel, or one with a projection of `projection` numbers."""
    config = class_of("transformers", "CLIPTextConfig")(
        vocab_size=len(vocabulary()),
        hidden_size=width,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        projection_dim=projection or width,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return class_of("transformers", f"CLIPTextModel{'WithProjection' if projection else ''}")(config)


def vae() -> Any:
    return diffusers_class("AutoencoderKL")(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=IMAGE_SIDE,
    )


def pixel_unet(classes: int | None = None) -> Any:
    return diffusers_class("UNet2DModel")(
        sample_size=LATENT_SIDE,
        block_out_channels=(16, 16),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        num_class_embeds=classes,
    )


def text_unet(**settings: Any) -> Any:
    return diffusers_class("UNet2DConditionModel")(
        **{
            "sample_size": LATENT_SIDE,
            "block_out_channels": (16, 16),
            "layers_per_block": 1,
            "norm_num_groups": 4,
            "attention_head_dim": 2,
            "cross_attention_dim": 16,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            **settings,
        }
    )


def controlnet(unet: Any) -> Any:
    """A ControlNet of `unet` whose last layers are not zero, so that its hint matters."""
    made = diffusers_class("ControlNetModel").from_unet(unet, conditioning_embedding_out_channels=(8, 16))
    generator = torch.Generator().manual_seed(7)
    for layer in (*made.controlnet_down_blocks, made.controlnet_mid_block, made.controlnet_cond_embedding.conv_out):
        nn.init.normal_(layer.weight, std=0.2, generator=generator)
    return made


def scheduler(name: str, **settings: Any) -> Any:
    return diffusers_class(f"{name}Scheduler")(**settings)


def _text_parts(unet: Any, made: Any) -> dict[str, Any]:
    return {
        "unet": unet,
        "scheduler": made,
        "vae": vae(),
        "text_encoder": text_encoder(),
        "tokenizer": tokenizer(),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


def _xl_parts(made: Any) -> dict[str, Any]:
    return {
        "unet": text_unet(
            cross_attention_dim=16 + 24,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + 12,
            transformer_layers_per_block=(2, 1),
            use_linear_projection=True,
        ),
        "scheduler": made,
        "vae": vae(),
        "text_encoder": text_encoder(),
        "text_encoder_2": text_encoder(24, projection=12),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(pad="!</w>"),
        "add_watermarker": False,
    }


def _control_parts() -> dict[str, Any]:
    parts = _text_parts(text_unet(), scheduler("DDIM", **_LEADING))
    return {**parts, "controlnet": controlnet(parts["unet"])}


#: The class of a pipeline and its components by the name of a folder.
_BUILDERS: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "ddpm": ("DDPMPipeline", lambda: {"unet": pixel_unet(), "scheduler": scheduler("DDPM")}),
    "ddim": ("DDIMPipeline", lambda: {"unet": pixel_unet(), "scheduler": scheduler("DDIM")}),
    "classes": ("DDPMPipeline", lambda: {"unet": pixel_unet(classes=5), "scheduler": scheduler("DDPM")}),
    "sd": ("StableDiffusionPipeline", lambda: _text_parts(text_unet(), scheduler("DDIM", **_LEADING))),
    "sd_v": (
        "StableDiffusionPipeline",
        lambda: _text_parts(
            text_unet(use_linear_projection=True, attention_head_dim=(2, 4)),
            scheduler("DDIM", **_LEADING, prediction_type="v_prediction"),
        ),
    ),
    "sd_img2img": (
        "StableDiffusionImg2ImgPipeline",
        lambda: _text_parts(text_unet(), scheduler("DPMSolverMultistep", **_STABLE, steps_offset=1)),
    ),
    "inpaint": ("StableDiffusionInpaintPipeline", lambda: _text_parts(text_unet(), scheduler("DDIM", **_LEADING))),
    "inpaint9": (
        "StableDiffusionInpaintPipeline",
        lambda: _text_parts(text_unet(in_channels=9), scheduler("DDIM", **_LEADING)),
    ),
    "control": ("StableDiffusionControlNetPipeline", _control_parts),
    "sdxl": ("StableDiffusionXLPipeline", lambda: _xl_parts(scheduler("EulerDiscrete", **_STABLE, steps_offset=1))),
    "sdxl_img2img": (
        "StableDiffusionXLImg2ImgPipeline",
        lambda: _xl_parts(scheduler("EulerDiscrete", **_STABLE, steps_offset=1)),
    ),
    "lcm": (
        "LatentConsistencyModelPipeline",
        lambda: _text_parts(text_unet(time_cond_proj_dim=32), scheduler("LCM", **_LEADING)),
    ),
    "turbo": (
        "StableDiffusionPipeline",
        lambda: _text_parts(
            text_unet(), scheduler("EulerDiscrete", **_STABLE, steps_offset=1, timestep_spacing="trailing")
        ),
    ),
}


def write_folder(path: Path, name: str) -> Path:
    """Write the folder `name`, one of NAMES, to `path`; the same weights every time."""
    pipeline, parts = _BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20)
        made = diffusers_class(pipeline)(**parts())
    made.save_pretrained(path, safe_serialization=True)
    return path


def write_lora(folder: Path, name: str, seed: int, *, rank: int = 2, text: bool = False) -> Path:
    """Write `folder`/loras/`name`.safetensors for a folder of Stable Diffusion, also for its text encoder if `text`."""
    generator = torch.Generator().manual_seed(seed)
    widths = {"unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (16, 16)}
    widths["unet.down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"] = (16, 16)
    widths["unet.up_blocks.1.attentions.0.transformer_blocks.0.ff.net.2"] = (64, 16)
    widths["unet.down_blocks.0.resnets.0.time_emb_proj"] = (64, 16)
    if text:
        widths["text_encoder.text_model.encoder.layers.1.self_attn.q_proj"] = (16, 16)
    state = {}
    for module, (inputs, outputs) in widths.items():
        state[f"{module}.lora_A.weight"] = torch.randn(rank, inputs, generator=generator)
        state[f"{module}.lora_B.weight"] = torch.randn(outputs, rank, generator=generator)
    return _save_lora(folder, name, state)


def write_xl_lora(folder: Path, name: str, seed: int) -> Path:
    """As `write_lora`, for the UNet and both text encoders of the folder sdxl."""
    generator = torch.Generator().manual_seed(seed)
    module = "layers.1.self_attn.q_proj"
    widths = {f"text_encoder.text_model.encoder.{module}": 16, f"text_encoder_2.text_model.encoder.{module}": 24}
    widths["unet.down_blocks.0.attentions.0.transformer_blocks.1.attn1.to_q"] = 16
    state = {}
    for key, width in widths.items():
        state[f"{key}.lora_A.weight"] = torch.randn(2, width, generator=generator)
        state[f"{key}.lora_B.weight"] = torch.randn(width, 2, generator=generator)
    return _save_lora(folder, name, state)


def _save_lora(folder: Path, name: str, state: dict[str, torch.Tensor]) -> Path:
    path = folder / "loras" / f"{name}.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(state, path)
    return path


def edit_json(path: Path, **fields: Any) -> None:
    """Replace fields of a JSON file; None removes one."""
    changed = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
