"""Control of a finished text-to-image model by drawings: only the control network is trained."""

from torch import Tensor, nn

from trainer.data.strokes import moved, strokes
from trainer.model_config import ControlConfig
from trainer.models.control import ControlledUNet, ControlXStart
from trainer.models.text_encoder import TextEncoder
from trainer.models.text_parts import TextParts
from trainer.models.text_unet import TextUNet
from trainer.objectives.base import Position, Task
from trainer.objectives.captioned import CaptionedObjective


class Controlled(nn.Module):
    """The frozen ``encoder`` of captions, and ``unet`` with its control network."""

    def __init__(self, encoder: TextEncoder, unet: TextUNet) -> None:
        super().__init__()
        self.encoder, self.unet = encoder, ControlledUNet(unet)
        self.encoder.requires_grad_(False)
        self.unet.unet.requires_grad_(False)


class ControlObjective(CaptionedObjective):
    """Denoising of images, given their captions and strokes along their edges."""

    def __init__(self, task: Task, model: ControlConfig) -> None:
        super().__init__(task, model.base)
        self.moved = model.moved
        self.network = Controlled(*self.new_networks())
        self.generator = self.place(self.network)
        self.networks = nn.ModuleDict({"control": self.network})
        trained = [weight for weight in self.network.parameters() if weight.requires_grad]
        self.optimizers = {"control": self.make_optimizer(trained)}

    def start_from(self, averages: dict[str, Tensor], images: Tensor, label: Tensor) -> None:  # noqa: ARG002
        self.network.encoder.load_state_dict(_below("encoder.", averages))
        self.network.unet.begin_with(_below("unet.", averages))

    def train_step(self, images: Tensor, label: Tensor, at: Position) -> dict[str, Tensor]:  # noqa: ARG002
        tokens, mask = self.draw_captions(label)
        images = moved(images, self.draws, self.moved)
        hint, scale = strokes(images, self.draws), images.new_ones(len(images))
        network = self.network
        network.encoder.eval()  # not trained, so its dropout would only add noise
        with self.autocast():
            context = network.encoder(tokens, mask)
            loss = self.denoising.loss(
                lambda x, t, _: network.unet(x, t, context, mask, hint, scale), images, label, self.draws
            )
        self.descend(self.optimizers["control"], loss)
        return {f"{self.denoising.config.prediction}_mse": loss.detach()}

    def parts(self, generator: nn.Module) -> TextParts:
        assert isinstance(generator, Controlled)
        of, (_, height, width) = self.denoising, self.task.image_shape
        denoise = ControlXStart(generator.unet, of.alpha, of.sigma, of.config.prediction)
        return self.text_parts(generator.encoder, denoise, (1, height, width))


def _below(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
