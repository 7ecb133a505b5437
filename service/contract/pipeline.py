"""What pictures are conditioned on; and of a diffusers folder, all that a process needs without its networks."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, NonNegativeInt, PositiveInt

from service.contract.records import Record

Task = Literal["generate", "text-to-image", "image-to-image", "inpaint", "control"]
#: How a guidance scale acts: by a second row without the condition, inside the network, or not at all.
GuidanceKind = Literal["classifier-free", "embedded", "none"]

_Shape = tuple[PositiveInt, ...]


class Sizes(Record):
    """The pictures that a model makes, in pixels: sides are multiples of `multiple`, from `smallest` to `largest`.

    One size only where `largest` is 0.
    """

    width: PositiveInt
    height: PositiveInt
    multiple: PositiveInt
    smallest: PositiveInt
    largest: NonNegativeInt

    def require(self, width: int, height: int) -> None:
        """Raise ValueError naming the side that is not supported."""
        if (width, height) == (self.width, self.height):
            return
        if self.smallest > self.largest:
            raise ValueError(f"only {self.width} x {self.height} is supported")
        for name, side in (("width", width), ("height", height)):
            if side % self.multiple or not self.smallest <= side <= self.largest:
                allowed = f"a multiple of {self.multiple} from {self.smallest} to {self.largest}"
                raise ValueError(f"{name} {side} is not {allowed}")


class Conditioning(Record):
    """What the pictures of a model are conditioned on, and how.

    `tokens` are those of a prompt, `marks` of which mark its ends; 0 without prompts. `text` has the inputs that a
    prompt gives, by name, and `inputs` the shapes of all others, for a picture of the model's own size.
    `zero_negative`: without a negative prompt, guidance leads away from zeros instead of the empty prompt. `controls`
    are the networks that read a picture. `paints_in`: the network is given the mask and the masked picture.
    """

    tasks: tuple[Task, ...]
    sizes: Sizes
    guidance: GuidanceKind
    negative_prompt: bool
    zero_negative: bool
    encoders: NonNegativeInt
    tokens: NonNegativeInt
    marks: NonNegativeInt = 2
    text: dict[str, _Shape]
    inputs: dict[str, tuple[NonNegativeInt, ...]]
    controls: tuple[str, ...]
    loras: tuple[str, ...]
    paints_in: bool

    @property
    def words(self) -> int:
        """The most tokens of a prompt's own."""
        return max(0, self.tokens - self.marks)


class Pipeline(Conditioning):
    """The pipeline of a diffusers folder.

    `scheduler` is its scheduler's configuration as the pipeline uses it, `solvers` those of its table. `no_class`:
    there is a class "no class". `parameters` is the number of weights.
    """

    class_name: str
    factor: PositiveInt
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    scheduler: dict[str, JsonValue]
    solvers: tuple[str, ...]
    no_class: bool
    licence: Annotated[str, Field(max_length=200)] | None
    parameters: PositiveInt
    notes: tuple[str, ...] = ()
