"""What the objectives of text-to-image models share: captions as tokens, and the parts that read them."""

from tokenizers import Tokenizer
from torch import Tensor, nn

from trainer.config import TextConfig
from trainer.data import ImageData
from trainer.data.captions import VARIANTS
from trainer.models.text_encoder import TextEncoder
from trainer.models.text_parts import TextDecode, TextParts
from trainer.models.text_unet import TextUNet
from trainer.objectives.base import Objective, Task
from trainer.objectives.ddpm import Denoising
from trainer.text.tokenizer import tokenize, train_tokenizer, words_of_captions


class CaptionedObjective(Objective):
    """Denoising of captioned pictures. A label is the picture's place among the captions, or the one behind them."""

    accumulates = True
    #: Made by ``bind`` of the captions, unless ``recall`` brought that of an earlier run: its words have numbers.
    tokenizer: Tokenizer | None = None

    def __init__(self, task: Task, model: TextConfig) -> None:
        super().__init__(task)
        self.model = model
        self.latent_shape = task.image_shape
        self.denoising = Denoising(model, (-1.0, 1.0), task.device)

    def bind(self, data: ImageData) -> None:
        assert data.captions is not None, "a text-to-image model is trained on captioned pictures"
        model, count = self.model, len(data.captions)
        if self.tokenizer is None:
            self.tokenizer = train_tokenizer(words_of_captions(data.captions), model.vocabulary, model.tokens)
        captions = [caption for variants in data.captions.variants() for caption in variants]
        # The row behind all pictures is the empty caption, which is what a dropped label points at.
        table = tokenize(self.tokenizer, [*captions, *[""] * VARIANTS], model.tokens)
        self._tokens, self._mask = (each.view(count + 1, VARIANTS, -1).to(self.task.device) for each in table)

    def notes(self) -> dict[str, str]:
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer.to_str()}

    def recall(self, notes: dict[str, str]) -> None:
        self.tokenizer = Tokenizer.from_str(notes["tokenizer"])

    def captions_of(self, label: Tensor, variant: Tensor) -> tuple[Tensor, Tensor]:
        """Of each ``label`` the caption ``variant``, (batch,) int64: tokens (batch, tokens) int64, their mask, bool."""
        return self._tokens[label, variant], self._mask[label, variant]

    def draw_captions(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """Of each ``label`` one caption by chance, as ``captions_of`` gives them."""
        return self.captions_of(label, self.draws.randint(VARIANTS, len(label)))

    def new_networks(self) -> tuple[TextEncoder, TextUNet]:
        """Both networks at random."""
        model = self.model
        return (
            TextEncoder(model.vocabulary, model.tokens, model.context, model.text_layers, model.dropout),
            TextUNet(self.task.image_shape, model.patch, model.width, model.wide, model.blocks, model.context),
        )

    def text_parts(
        self, encoder: nn.Module, denoise: nn.Module, hint_shape: tuple[int, int, int] | None = None
    ) -> TextParts:
        """The artefact's functions over these networks."""
        assert self.tokenizer is not None, "parts are made after bind or recall"
        return TextParts(
            self.task.image_shape,
            0,
            self.latent_shape,
            decode=TextDecode(),
            diffusion=self.denoising.diffusion,
            denoise=denoise,
            encode_text=encoder,
            tokenizer=self.tokenizer,
            tokens=self.model.tokens,
            context=self.model.context,
            hint_shape=hint_shape,
        )
