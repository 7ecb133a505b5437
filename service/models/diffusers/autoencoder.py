"""Pictures to latents and back, as the pipelines scale them."""

from typing import Any

import torch
from torch import Tensor

from service.models.diffusers.configs import Vae

#: Pictures of more pixels are decoded in overlapping tiles: the memory of a whole decode grows with the picture.
WHOLE_PIXELS = 1024 * 1024


class Autoencoder:
    """An AutoencoderKL; inputs and outputs are float32 in the solver's scale."""

    def __init__(self, vae: Any, config: Vae, dtype: torch.dtype) -> None:
        self._vae = vae
        self._dtype = dtype
        device = vae.device
        scale, shift = torch.tensor(config.scaling_factor, device=device), config.shift_factor or 0.0
        self._scale, self._shift = scale, torch.tensor(shift, device=device)
        if config.latents_mean is not None and config.latents_std is not None:
            self._scale = scale / torch.tensor(config.latents_std, device=device)[:, None, None]
            self._shift = torch.tensor(config.latents_mean, device=device)[:, None, None]
        self._factor = config.factor

    def is_tiled(self, latent: Tensor) -> bool:
        """Whether `decode` uses tiles for a latent (batch, channel, height, width)."""
        return latent.shape[-2] * latent.shape[-1] * self._factor**2 > WHOLE_PIXELS

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Tensor:
        """Latents (batch, channel, height, width) as pictures (batch, 3, factor x height, factor x width) in [-1, 1].

        Large pictures are decoded in tiles that are blended at their borders (`enable_tiling` of diffusers).
        """
        z = (latent.to(self._vae.device) / self._scale + self._shift).to(self._dtype)
        decode = self._vae.tiled_decode if self.is_tiled(latent) else self._vae.decode
        image: Tensor = decode(z, return_dict=False)[0]
        return image.float().clamp(-1.0, 1.0)

    @torch.inference_mode()
    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance, both of the latent's shape, of pictures (batch, 3, height, width) in [-1, 1].

        The latent is `mean + exp(logvar / 2) * noise`.
        """
        posterior = self._vae.encode(image.to(self._vae.device, self._dtype)).latent_dist
        mean = (posterior.mean.float() - self._shift) * self._scale
        return mean, posterior.logvar.float() + 2 * self._scale.log()
