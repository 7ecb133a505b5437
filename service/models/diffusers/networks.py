"""The networks of a diffusers folder behind one signature: every row of a call has its own timestep and inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from service.contract.text import SKETCH
from service.engine.model import Tokens
from service.engine.rows import Adapter
from service.models.diffusers.autoencoder import Autoencoder
from service.models.diffusers.folder import DiffusersFolder
from service.models.diffusers.lora import Adapters
from service.models.diffusers.text import TextEncoder


class Denoiser:
    """A UNet with its ControlNets and LoRAs."""

    def __init__(self, unet: Any, controls: Mapping[str, Any], adapters: Adapters, dtype: torch.dtype) -> None:
        self._unet = unet
        self._controls = controls
        self._adapters = adapters
        self._dtype = dtype

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, t: Tensor, inputs: Mapping[str, Tensor], adapters: Sequence[Adapter | None] = ()
    ) -> Tensor:
        """As `Networks.denoise`."""
        inputs = {name: self._cast(value) for name, value in inputs.items()}
        x = x.to(self._dtype)
        named = {"added_cond_kwargs": added(inputs)} if "pooled" in inputs else {}
        residuals = self._residuals(x, t, inputs, named)
        if "masked_latent" in inputs:
            x = torch.cat([x, inputs["mask"], inputs["masked_latent"]], dim=1)
        with self._adapters.rows(adapters, len(x), x.device):
            prediction: Tensor = self._unet(x, t, **self._conditions(inputs), **named, **residuals, return_dict=False)[
                0
            ]
        return prediction.float()

    def _conditions(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        names = {"label": "class_labels", "context": "encoder_hidden_states", "timestep_cond": "timestep_cond"}
        return {theirs: inputs[ours] for ours, theirs in names.items() if ours in inputs}

    def _residuals(
        self, x: Tensor, t: Tensor, inputs: Mapping[str, Tensor], named: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the ControlNets add to the UNet's skip connections: zeros in a row of scale 0."""
        total: list[Tensor] = []
        for name, control in self._controls.items():
            hint, scale = hint_names(name)
            if hint not in inputs:
                continue
            down, middle = control(
                x,
                t,
                encoder_hidden_states=inputs["context"],
                controlnet_cond=inputs[hint],
                conditioning_scale=inputs[scale][:, None, None, None],
                return_dict=False,
                **named,
            )
            parts = [*down, middle]
            total = [sum_ + part for sum_, part in zip(total, parts, strict=True)] if total else parts
        if not total:
            return {}
        return {"down_block_additional_residuals": total[:-1], "mid_block_additional_residual": total[-1]}

    def _cast(self, value: Tensor) -> Tensor:
        return value.to(self._dtype) if value.is_floating_point() else value


def added(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """SDXL's further inputs by diffusers' names."""
    return {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]}


def hint_names(control: str) -> tuple[str, str]:
    """The names of a control's inputs: `hint` and `hint_scale`, followed by its name where a folder has several."""
    return ("hint", "hint_scale") if control in ("controlnet", SKETCH) else (f"hint_{control}", f"hint_scale_{control}")


def input_shapes(
    folder: DiffusersFolder, text: Mapping[str, tuple[int, ...]], height: int, width: int
) -> dict[str, tuple[int, ...]]:
    """As `Networks.input_shapes`; `text` has the shapes of what a prompt gives."""
    unet, factor, channels = folder.unet.config, folder.latent_factor, folder.latent_channels
    shapes = dict(text)
    if getattr(unet, "num_class_embeds", None):
        shapes["label"] = ()
    if folder.kind == "xl":
        shapes["time_ids"] = (6,)
    if width_of_guidance := getattr(unet, "time_cond_proj_dim", None):
        shapes["timestep_cond"] = (width_of_guidance,)
    for control in folder.controlnets:
        hint, scale = hint_names(control)
        shapes |= {hint: (3, height, width), scale: ()}
    if folder.paints_in:
        size = height // factor, width // factor
        shapes |= {"mask": (1, *size), "masked_latent": (channels, *size)}
    return shapes


@dataclass(frozen=True)
class Networks:
    """A loaded folder. `scheduler` is the scheduler's complete configuration, with what the pipeline corrects.

    `text` and `autoencoder` are None for a model of pixels, whose latents are pictures in [-1, 1].
    """

    folder: DiffusersFolder
    device: torch.device
    dtype: torch.dtype
    scheduler: Mapping[str, Any]
    denoiser: Denoiser
    text: TextEncoder | None
    autoencoder: Autoencoder | None

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """The solver's state, (channel, height, width), of a picture of `height` x `width` pixels."""
        factor = self.folder.latent_factor
        return self.folder.latent_channels, height // factor, width // factor

    def input_shapes(self, height: int, width: int) -> dict[str, tuple[int, ...]]:
        """The inputs of a row by name, without the batch, for a picture of `height` x `width` pixels.

        All are float32, but `label` is int64.
        """
        return input_shapes(self.folder, self.text.shapes if self.text is not None else {}, height, width)

    def denoise(
        self, x: Tensor, t: Tensor, inputs: Mapping[str, Tensor], adapters: Sequence[Adapter | None] = ()
    ) -> Tensor:
        """The UNet's prediction, of the scheduler's `prediction_type`, (batch, channel, height, width) float32.

        Args:
            x: (batch, channel, height, width), scaled as the scheduler's `scale_model_input` does.
            t: (batch,) timesteps, whole or not, from 0 to `num_train_timesteps` - 1.
            inputs: what `input_shapes` names, each with a batch; a hint that no row of the call has may be left out.
            adapters: one LoRA or None per row; () for none.
        """
        return self.denoiser(x, t, inputs, adapters)

    def tokenize(self, prompt: str) -> Tokens:
        """As `TextEncoder.tokenize`; for text models only."""
        assert self.text is not None
        return self.text.tokenize(prompt)

    def encode_text(self, ids: Tensor, adapters: Sequence[Adapter | None] = ()) -> dict[str, Tensor]:
        """As `TextEncoder.encode`; for text models only."""
        assert self.text is not None
        return self.text.encode(ids, adapters)

    def decode(self, latent: Tensor) -> Tensor:
        """Latents as pictures (batch, channel, height, width) in [-1, 1]."""
        return latent.clamp(-1.0, 1.0) if self.autoencoder is None else self.autoencoder.decode(latent)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent of pictures in [-1, 1]; for models with an autoencoder only."""
        assert self.autoencoder is not None
        return self.autoencoder.encode(image)

    def time_ids(self, height: int, width: int) -> Tensor:
        """SDXL's sizes of an uncropped picture, (6,): original height and width, offsets, target height and width."""
        return torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)

    def guidance_embedding(self, scale: float) -> Tensor:
        """`timestep_cond`, (width,), of a guidance scale as a request gives it, for models distilled with guidance."""
        width = getattr(self.folder.unet.config, "time_cond_proj_dim", None)
        assert width is not None
        return guidance_embedding(scale, width)


def guidance_embedding(scale: float, width: int) -> Tensor:
    """Sines and cosines, (width,), of 1000 (`scale` - 1): Meng et al., arXiv:2210.03142, by diffusers' frequencies."""
    half = width // 2
    steps = torch.log(torch.tensor(10000.0)) / (half - 1)
    angles = torch.tensor(scale - 1.0) * 1000.0 * torch.exp(torch.arange(half, dtype=torch.float32) * -steps)
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()]), (0, width % 2))
