"""What a manifest says of the prompts of a model that the trainer exported, and the file with its words."""

from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field, JsonValue, PositiveInt, StringConstraints, ValidationError

from service.contract.pipeline import Conditioning, Sizes, Task
from service.contract.records import HashedFile, Record

#: Bounds of a file of words: its bytes, and the pictographs that it names.
MAX_WORDS_BYTES = 4 << 20
MAX_PICTOGRAPHS = 10_000
#: The tokens that are no words: padding, and an unknown word, which is left out of the prompt.
PADDING, UNKNOWN = 0, 1
#: The input of a drawing by the name that requests have for it; see `Conditioning.controls`.
SKETCH = "sketch"

ImageShape = tuple[PositiveInt, PositiveInt, PositiveInt]


class WordsFile(HashedFile):
    """The tokenizer and the names of pictographs, a `Words` in JSON."""

    file: Annotated[str, StringConstraints(pattern=r"^words-[0-9a-f]{8}\.json$")]
    size: Annotated[int, Field(gt=0, le=MAX_WORDS_BYTES)]


class TextModel(Record):
    """A model that reads prompts: `encode_text(tokens, mask)` gives its context, (batch, `tokens`, `width`).

    A prompt has at most `tokens` tokens below `vocabulary`, the first of which marks its start. Words without a token
    are left out, and longer prompts are cut. `hint_shape`, (1, height, width), is of a drawing that is 1 on a stroke;
    None for a model without control by drawings.
    """

    tokens: Annotated[int, Field(ge=2, le=1024)]
    width: Annotated[int, Field(ge=1, le=8192)]
    vocabulary: Annotated[int, Field(ge=8, le=1 << 20)]
    words: WordsFile
    unknown_words: Literal["ignored"] = "ignored"
    hint_shape: ImageShape | None = None


class Words(Record):
    """The file of words: `tokenizer` is JSON of the tokenizers library, `pictographs` has the names of emoji.

    In the tokenizer, 0 is padding, 1 an unknown word, and another number the start of every prompt.
    """

    tokenizer: dict[str, JsonValue]
    pictographs: Annotated[
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=32)],
            Annotated[str, StringConstraints(min_length=1, max_length=200)],
        ],
        Field(max_length=MAX_PICTOGRAPHS),
    ]


def words_file(sha256: str) -> str:
    """The file name of words with this hash (64 hexadecimal characters)."""
    return f"words-{sha256[:8]}.json"


def parse_words(payload: bytes) -> Words:
    """The words in a file's bytes. Raises ValueError with a reason of one line."""
    try:
        return Words.model_validate_json(payload)
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        field = ".".join(str(part) for part in error["loc"])
        raise ValueError(f"{field}: {error['msg']}".removeprefix(": ")) from failure


@lru_cache(maxsize=64)
def conditioning_of(text: TextModel, image_shape: ImageShape) -> Conditioning:
    """What the pictures (channel, height, width) of a model with `text` are conditioned on."""
    _, height, width = image_shape
    tasks: tuple[Task, ...] = ("text-to-image", "image-to-image", "inpaint")
    hint = text.hint_shape
    return Conditioning(
        tasks=tasks if hint is None else (*tasks, "control"),
        sizes=Sizes(width=width, height=height, multiple=1, smallest=1, largest=0),
        guidance="classifier-free",
        negative_prompt=True,
        zero_negative=False,
        encoders=1,
        tokens=text.tokens,
        marks=1,
        text={"context": (text.tokens, text.width), "context_mask": (text.tokens,)},
        inputs={} if hint is None else {"hint": hint, "hint_scale": ()},
        controls=() if hint is None else (SKETCH,),
        loras=(),
        paints_in=False,
    )
