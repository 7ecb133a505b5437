"""A variational autoencoder (Kingma & Welling 2014, arXiv 1312.6114), class-conditional, its prior fixed or learned."""

from torch import nn

from trainer.models.prior import CouplingFlow
from trainer.models.pyramid import Decoder, Encoder


class VAE(nn.Module):
    """Encoder and decoder of one latent space, and the prior over its codes; None, the standard normal."""

    def __init__(self, encoder: Encoder, decoder: Decoder, prior: CouplingFlow | None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
