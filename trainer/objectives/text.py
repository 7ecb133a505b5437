"""Text to image: a U-Net that denoises images, trained together with the encoder of their captions."""

from torch import Tensor, nn

from trainer.model_config import TextConfig
from trainer.models.text_encoder import TextEncoder
from trainer.models.text_parts import TextParts, TextXStart
from trainer.models.text_unet import TextUNet
from trainer.objectives.base import Position, Task
from trainer.objectives.captioned import CaptionedObjective


class TextToImage(nn.Module):
    """The two networks: ``encoder`` of captions, ``unet`` of images."""

    def __init__(self, encoder: TextEncoder, unet: TextUNet) -> None:
        super().__init__()
        self.encoder, self.unet = encoder, unet


class TextObjective(CaptionedObjective):
    """Denoising of images, given their captions."""

    def __init__(self, task: Task, model: TextConfig) -> None:
        super().__init__(task, model)
        self.network = TextToImage(*self.new_networks())
        self.generator = self.place(self.network)
        self.networks = nn.ModuleDict({"text": self.network})
        self.optimizers = {"network": self.make_optimizer(self.network.parameters())}

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        tokens, mask = self.draw_captions(label)
        network = self.network
        with self.autocast():
            context = network.encoder(tokens, mask)
            loss = self.denoising.loss(lambda x, t, _: network.unet(x, t, context, mask), images, label, self.draws)
        self.descend(self.optimizers["network"], loss)
        return {f"{self.denoising.config.prediction}_mse": loss.detach()}

    def parts(self, generator: nn.Module) -> TextParts:
        assert isinstance(generator, TextToImage)
        of = self.denoising
        return self.text_parts(generator.encoder, TextXStart(generator.unet, of.alpha, of.sigma, of.config.prediction))
