"""A control network: a copy of a text-to-image U-Net's encoder that takes a drawing and adds to the decoder's maps.

Zhang et al. 2023, "Adding Conditional Control to Text-to-Image Diffusion Models" (ControlNet, arXiv 2302.05543).
"""

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from trainer.models.parts import OutputToXStart
from trainer.models.text_encoder import attention_bias
from trainer.models.text_unet import TextUNet, mean_of_tokens
from trainer.models.unet import zeroed

#: The modules of a U-Net that the control network copies.
COPIED = ("time", "caption", "stem", "down_fine", "downsample", "coarse")


class DrawnHalf(nn.Module):
    """Copies of a U-Net's first blocks and of its coarse ones, with the layers of the drawing."""

    def __init__(self, unet: TextUNet) -> None:
        super().__init__()
        self.patch = unet.patch
        self.time, self.caption = copy.deepcopy(unet.time), copy.deepcopy(unet.caption)
        self.stem, self.down_fine = copy.deepcopy(unet.stem), copy.deepcopy(unet.down_fine)
        self.downsample, self.coarse = copy.deepcopy(unet.downsample), copy.deepcopy(unet.coarse)
        width, wide = unet.stem.convolution.out_channels, unet.downsample.convolution.out_channels
        self.hint = nn.Sequential(
            nn.Conv2d(unet.patch**2, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.to_fine, self.to_coarse = zeroed(nn.Conv2d(width, width, 1)), zeroed(nn.Conv2d(wide, wide, 1))

    def forward(
        self, x: Tensor, t: Tensor, context: Tensor, context_mask: Tensor, hint: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The maps to add to the U-Net's fine and coarse maps."""
        embedding = F.silu(self.time(t) + self.caption(mean_of_tokens(context, context_mask)))
        fine = self.stem(F.pixel_unshuffle(x, self.patch)) + self.hint(F.pixel_unshuffle(hint, self.patch))
        fine = self.down_fine(fine, embedding)
        coarse = self.coarse(self.downsample(fine), embedding, context, attention_bias(context_mask))
        return self.to_fine(fine), self.to_coarse(coarse)


class ControlledUNet(nn.Module):
    """``forward(x, t, context, context_mask, hint, hint_scale)``: the U-Net with a drawing as additional input.

    ``hint`` (batch, 1, height, width) is 1 on a stroke, 0 elsewhere; ``hint_scale`` (batch,) scales its effect. A row
    with scale 0 equals the output of the U-Net alone, which a call without them computes. The U-Net itself is not
    trained.
    """

    def __init__(self, unet: TextUNet) -> None:
        super().__init__()
        self.unet, self.drawn = unet, DrawnHalf(unet)

    def begin_with(self, unet: dict[str, Tensor]) -> None:
        """Load the ``state_dict`` of a trained U-Net into the U-Net and its copies."""
        self.unet.load_state_dict(unet)
        for name in COPIED:
            getattr(self.drawn, name).load_state_dict(getattr(self.unet, name).state_dict())

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        context_mask: Tensor,
        hint: Tensor | None = None,
        hint_scale: Tensor | None = None,
    ) -> Tensor:
        if hint is None or hint_scale is None:
            plain: Tensor = self.unet(x, t, context, context_mask)
            return plain
        to_fine, to_coarse = self.drawn(x, t, context, context_mask, hint)
        scale = hint_scale[:, None, None, None]
        output: Tensor = self.unet(x, t, context, context_mask, scale * to_fine, scale * to_coarse)
        return output


class ControlXStart(OutputToXStart):
    """The prediction of a controlled network, converted to x_start."""

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        context: Tensor,
        context_mask: Tensor,
        hint: Tensor | None = None,
        hint_scale: Tensor | None = None,
    ) -> Tensor:
        return self.combine(x, t, self.network(x, t, context, context_mask, hint, hint_scale))
