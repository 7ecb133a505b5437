"""A learned prior for the codes of a VAE: an invertible map between standard normal noise and codes.

Class-conditional affine couplings (Dinh et al. 2017, "Density estimation using Real NVP", arXiv 1605.08803). The codes
of a VAE do not follow the standard normal prior of its loss; samples of their actual distribution are sharper (Dai &
Wipf 2019, "Diagnosing and Enhancing VAE Models", arXiv 1903.05789).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.unet import zeroed


class Coupling(nn.Module):
    """The scale and shift of the second half of a vector, computed from the first half and the class."""

    def __init__(self, latent: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.kept = latent // 2
        self.label = nn.Embedding(classes + 1, hidden)
        self.enter = nn.Linear(self.kept, hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.out = zeroed(nn.Linear(hidden, 2 * (latent - self.kept)))

    def forward(self, kept: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, kept), (batch,) -> log-scale, within +-2, and shift, (batch, latent - kept) each."""
        hidden = F.silu(self.enter(kept) + self.label(label))
        log_scale, shift = self.out(F.silu(self.inner(hidden))).chunk(2, dim=1)
        return 2.0 * torch.tanh(log_scale / 2.0), shift


class CouplingFlow(nn.Module):
    """``layers`` couplings with the halves exchanged between them. ``forward`` maps noise to codes."""

    def __init__(self, latent: int, classes: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(latent, classes, hidden) for _ in range(layers))

    def forward(self, noise: Tensor, label: Tensor) -> Tensor:
        """(batch, latent), (batch,) -> codes (batch, latent)."""
        x = noise
        for coupling in self.couplings:
            kept, moved = x.tensor_split([x.shape[1] // 2], dim=1)
            log_scale, shift = coupling(kept, label)
            x = torch.cat([kept, moved * log_scale.exp() + shift], dim=1).flip(1)
        return x

    @torch.jit.export
    def inverse(self, code: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """(batch, latent), (batch,) -> noise (batch, latent), log-determinant of the inverse (batch,)."""
        x, log_determinant = code, torch.zeros_like(code[:, 0])
        for coupling in self.couplings[::-1]:
            kept, moved = x.flip(1).tensor_split([x.shape[1] // 2], dim=1)
            log_scale, shift = coupling.forward(kept, label)  # TorchScript cannot call elements of such a slice
            x = torch.cat([kept, (moved - shift) * (-log_scale).exp()], dim=1)
            log_determinant = log_determinant - log_scale.sum(dim=1)
        return x, log_determinant


class PriorDecode(nn.Module):
    """Decodes standard normal noise: the prior maps it to a code, the decoder to an image."""

    def __init__(self, decoder: nn.Module, prior: CouplingFlow) -> None:
        super().__init__()
        self.decoder, self.prior = decoder, prior

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.prior(z, label), label)
        return image


class PriorEncode(nn.Module):
    """Encodes an image to the prior's noise.

    The posterior is not Gaussian in that space: the log-variance comes from its one-sigma ends, mapped by the inverse.
    """

    def __init__(self, encoder: nn.Module, prior: CouplingFlow) -> None:
        super().__init__()
        self.encoder, self.prior = encoder, prior

    def forward(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(image, label)
        deviation = (0.5 * logvar).exp()
        above, below = self.prior.inverse(mean + deviation, label)[0], self.prior.inverse(mean - deviation, label)[0]
        return self.prior.inverse(mean, label)[0], (0.25 * (above - below).square() + 1e-12).log()
