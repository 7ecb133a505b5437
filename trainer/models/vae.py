"""A class-conditional VAE (Kingma & Welling 2014, arXiv 1312.6114) with a fixed or learned prior."""

from torch import nn

from trainer.models.prior import CouplingFlow
from trainer.models.pyramid import Decoder, Encoder


class VAE(nn.Module):
    """Encoder, decoder and the prior of the codes; None stands for the standard normal."""

    def __init__(self, encoder: Encoder, decoder: Decoder, prior: CouplingFlow | None) -> None:
        super().__init__()
        self.encoder, self.decoder, self.prior = encoder, decoder, prior
