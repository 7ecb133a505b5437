"""What a manifest says of a diffusers folder: everything that a process needs that does not load its networks."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, NonNegativeInt, PositiveInt

Task = Literal["generate", "text-to-image", "image-to-image", "inpaint", "control"]
#: How a guidance scale acts: by a second row without the condition, inside the network, or not at all.
GuidanceKind = Literal["classifier-free", "embedded", "none"]

_Shape = tuple[PositiveInt, ...]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Sizes(_Record):
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


class Pipeline(_Record):
    """The pipeline of a diffusers folder.

    `scheduler` is its scheduler's configuration as the pipeline uses it, `solvers` those of its table. `tokens` are
    those of a prompt, two of which mark its ends; 0 without prompts. `text` has the inputs that a prompt gives, by
    name, and `inputs` the shapes of all others, for a picture of the model's own size. `zero_negative`: without a
    negative prompt, guidance leads away from zeros instead of the empty prompt. `paints_in`: the network is given the
    mask and the masked picture. `no_class`: there is a class "no class". `parameters` is the number of weights.
    """

    class_name: str
    tasks: tuple[Task, ...]
    sizes: Sizes
    factor: PositiveInt
    prediction_type: Literal["epsilon", "v_prediction", "sample"]
    scheduler: dict[str, JsonValue]
    solvers: tuple[str, ...]
    guidance: GuidanceKind
    negative_prompt: bool
    zero_negative: bool
    encoders: NonNegativeInt
    tokens: NonNegativeInt
    text: dict[str, _Shape]
    inputs: dict[str, tuple[NonNegativeInt, ...]]
    controls: tuple[str, ...]
    loras: tuple[str, ...]
    paints_in: bool
    no_class: bool
    licence: Annotated[str, Field(max_length=200)] | None
    parameters: PositiveInt
    notes: tuple[str, ...] = ()
