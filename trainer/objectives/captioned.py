"""The common base of text-to-image objectives: tokens of captions, and the exported parts."""

from tokenizers import Tokenizer
from torch import Tensor, nn

from trainer.data import ImageData
from trainer.data.captions import VARIANTS
from trainer.model_config import TextConfig
from trainer.models.text_encoder import TextEncoder
from trainer.models.text_parts import TextDecode, TextParts
from trainer.models.text_unet import TextUNet
from trainer.objectives.base import Objective, Task
from trainer.objectives.ddpm import Denoising
from trainer.text.tokenizer import tokenize, train_tokenizer, words_of_captions


class CaptionedObjective(Objective):
    """Denoising of captioned images. A label is the row of the image among the captions, or the row after the last."""

    accumulates = True
    #: Trained by ``bind`` on the captions, unless ``recall`` restored that of an earlier run.
    tokenizer: Tokenizer | None = None

    def __init__(self, task: Task, model: TextConfig) -> None:
        super().__init__(task)
        self.model = model
        self.latent_shape = task.image_shape
        self.denoising = Denoising(model, (-1.0, 1.0), task.device)

    def bind(self, data: ImageData) -> None:
        assert data.captions is not None, "a text-to-image model is trained on captioned images"
        model, count = self.model, len(data.captions)
        if self.tokenizer is None:
            self.tokenizer = train_tokenizer(words_of_captions(data.captions), model.vocabulary, model.tokens)
        captions = [caption for variants in data.captions.variants() for caption in variants]
        # The row after the last image is the empty caption, the label of dropped captions.
        table = tokenize(self.tokenizer, [*captions, *[""] * VARIANTS], model.tokens)
        self._tokens, self._mask = (each.view(count + 1, VARIANTS, -1).to(self.task.device) for each in table)

    def notes(self) -> dict[str, str]:
        return {} if self.tokenizer is None else {"tokenizer": self.tokenizer.to_str()}

    def recall(self, notes: dict[str, str]) -> None:
        self.tokenizer = Tokenizer.from_str(notes["tokenizer"])

    def captions_of(self, label: Tensor, variant: Tensor) -> tuple[Tensor, Tensor]:
        """The caption ``variant`` (batch,) of each ``label``: tokens (batch, tokens) int64 and their mask, bool."""
        return self._tokens[label, variant], self._mask[label, variant]

    def draw_captions(self, label: Tensor) -> tuple[Tensor, Tensor]:
        """A random caption of each ``label``, as ``captions_of`` returns it."""
        return self.captions_of(label, self.draws.randint(VARIANTS, len(label)))

    def new_networks(self) -> tuple[TextEncoder, TextUNet]:
        """Both networks with random weights."""
        model = self.model
        return (
            TextEncoder(model.vocabulary, model.tokens, model.context, model.text_layers, model.dropout),
            TextUNet(self.task.image_shape, model.patch, model.width, model.wide, model.blocks, model.context),
        )

    def text_parts(
        self, encoder: nn.Module, denoise: nn.Module, hint_shape: tuple[int, int, int] | None = None
    ) -> TextParts:
        """The artefact's functions with these networks."""
        assert self.tokenizer is not None, "bind or recall comes before parts"
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
