"""The fields of requests: their shape and static bounds.

Which fields a model supports is in `capabilities`; bounds that depend on the model or the settings are in `resolve`.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, JsonValue

from service.api.request.arrays import Numbers
from service.api.request.fields import Fields
from service.api.request.negotiation import Format
from service.api.request.prompt_text import Prompt
from service.api.request.uploads import Upload
from service.contract.manifest import NAME, DeterministicSolver, SolverName
from service.images import grid_columns
from service.sampling.interpolate import Easing

MAX_SCALE = 32
#: Largest magnitude of a LoRA's scale.
MAX_LORA = 4

TaskName = Literal["generate", "interpolate", "encode", "latent_map"]
LayoutName = Literal["auto", "grid", "strip", "sprite", "list", "film"]
ClassLabel = int | Annotated[str, Field(max_length=64)]
Coordinate = Annotated[float, Field(ge=-1000, le=1000)]
SeedNumber = Annotated[int, Field(ge=0, lt=2**32)]
Seed = Annotated[
    SeedNumber,
    Field(description="Seed of the first picture; picture i has seed (seed + i) mod 2^32. Random if absent."),
]
Side = Annotated[int, Field(ge=1, le=16_384)]
Share = Annotated[float, Field(ge=0, le=1)]
Params = dict[str, JsonValue]


class Showing(Fields):
    """The fields that decide the form of the response, and not its pictures."""

    #: Fields that a query may repeat, once for each value of their list.
    repeatable: ClassVar[frozenset[str]] = frozenset()
    #: The layout of a single image where ``layout`` is auto.
    natural_layout: ClassVar[Literal["grid", "strip"]] = "grid"

    scale: int = Field(
        default=1, ge=1, le=MAX_SCALE, description="Enlargement: every pixel becomes scale x scale pixels."
    )
    format: Format | None = Field(
        default=None, description="Format of the response. Absent: the header Accept decides."
    )
    layout: LayoutName = Field(
        default="auto",
        description="Arrangement of several pictures. In one image (png, webp, jpeg): grid, nearly square; strip, one "
        "row; sprite, a grid without gaps. In the other formats: list, one picture after another. auto: what the "
        "format supports, with a strip for a path and a grid for everything else. film (also gif; diffusion models "
        "only): each picture with its previews, a row for each kind of preview, a column every preview_every steps, "
        "the picture last.",
    )
    fps: int | None = Field(
        default=None, ge=1, le=50, description="Frames per second of a gif, by default 10. Not for other formats."
    )
    quality: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Quality of webp and jpeg: higher is larger and closer to the original. Absent: webp is lossless, "
        "jpeg uses 90. The other formats are lossless (gif: for grey pictures).",
    )
    timeout_ms: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="Deadline in milliseconds. Rejected if the queue cannot meet it, cancelled when it passes. Absent, "
        "or above the service's own limit: that limit.",
        examples=[5000],
    )
    version: str | None = Field(
        default=None,
        max_length=64,
        description="Required version of the model, as in the header X-Model-Version; 404 if another one is served. "
        "The response to a GET with version and seed may be cached indefinitely.",
    )
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16, description="Returned unchanged in a JSON response. Not in a query."
    )


class Task(Showing):
    """The fields that all tasks share."""

    task: ClassVar[TaskName]

    @property
    def count(self) -> int:
        """Number of pictures."""
        raise NotImplementedError

    @property
    def columns(self) -> int:
        """Columns of the single image that shows all pictures, unless it is a film."""
        layout = self.natural_layout if self.layout == "auto" else self.layout
        return self.count if layout == "strip" else grid_columns(self.count)

    steps: int | None = Field(default=None, ge=1, description="Solver steps. Diffusion models only.", examples=[20])
    stream: bool = Field(
        default=False,
        description="Answer with server-sent events (text/event-stream), like the header Accept: text/event-stream.",
    )
    preview_every: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Steps between two previews of an unfinished picture in a stream, a job or a film; 0: no previews. "
        "Absent: about ten previews in a stream and a film, none in a job. Diffusion models only.",
    )
    preview_kind: Literal["x0", "xt", "both"] | None = Field(
        default=None,
        description="Content of previews: x0, the predicted clean picture; xt, the noisy state; or both. Absent: both "
        "in a film, else x0. Diffusion models only.",
    )


class Sampling(Task):
    """The fields that /generate and /interpolate share."""

    width: Side | None = Field(default=None, description="Width in pixels, for models of several sizes.")
    height: Side | None = Field(default=None, description="Height in pixels, for models of several sizes.")

    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Classifier-free guidance: 1 is none, higher values follow the prompt or the class more "
        "strongly. Diffusion models only.",
    )
    negative_class: ClassLabel | None = Field(
        default=None,
        description="Index or name of the class that guidance leads away from. Absent: away from no class.",
    )


class Lora(Fields):
    """A LoRA of the model, and how much of it is added."""

    name: Annotated[str, Field(max_length=200)] = Field(description="Its name, of those in GET /models/{name}.")
    scale: float = Field(
        default=1.0, ge=-MAX_LORA, le=MAX_LORA, description="Factor of its weights; 0: without effect."
    )


def lora_of(text: str) -> tuple[str, float]:
    """Name and scale of a LoRA from ``name`` or ``name:scale``. Raises ValueError for a scale that is out of range."""
    name, colon, scale = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        factor = float(scale)
    except ValueError:
        raise ValueError(f"has a scale that is not a number: {scale[:32]!r}") from None
    if not abs(factor) <= MAX_LORA:
        raise ValueError(f"has a scale outside of -{MAX_LORA} to {MAX_LORA}: {scale[:32]}")
    return name, factor


def _checked_lora(text: str) -> str:
    lora_of(text)
    return text


#: A LoRA in text, for forms and queries, which have no objects.
LoraText = Annotated[str, Field(max_length=210), AfterValidator(_checked_lora)]


class GenerateRequest(Sampling):
    """The body of POST /generate/{model}. All fields are optional."""

    task = "generate"
    repeatable = frozenset({"seeds", "class_label", "point", "prompt", "negative_prompt", "lora"})

    n: int = Field(default=1, ge=1, description="Number of pictures.", examples=[4])
    seed: Seed | None = None
    seeds: Annotated[list[SeedNumber], Field(fail_fast=True)] | None = Field(
        default=None, min_length=1, description="The seed of each picture, instead of seed; n may be omitted."
    )
    class_label: ClassLabel | Annotated[list[ClassLabel], Field(fail_fast=True)] | None = Field(
        default=None,
        description="Index or name of a class, or a list with one for each picture. 'none': no class "
        "(unconditional). Absent: class seed mod number of classes; with image, latents or point, no class.",
        examples=[7],
    )
    prompt: Prompt | Annotated[list[Prompt], Field(fail_fast=True, min_length=1)] | None = Field(
        default=None,
        description="What the picture shows, or a list with one text for each picture; n may then be omitted. Absent: "
        "the empty prompt. Text that exceeds the model's tokens is dropped, with a warning. Models of the trainer read "
        "emoji as their names, and ignore unknown words, with a warning. Models with prompts only.",
    )
    negative_prompt: Prompt | Annotated[list[Prompt], Field(fail_fast=True, min_length=1)] | None = Field(
        default=None,
        description="What guidance leads away from, or a list with one text for each picture. Models with "
        "prompts only.",
    )
    lora: Lora | LoraText | Annotated[list[Lora | LoraText | None], Field(fail_fast=True, min_length=1)] | None = Field(
        default=None,
        description="A LoRA of the model: name, name:scale, or an object with name and scale; or a list with one for "
        "each picture, null for none.",
    )
    control_image: Upload | None = Field(
        default=None,
        description="Picture that guides the composition, as the model's control reads it: edges, depth, a pose, or a "
        "sketch. A sketch is dark on white: a pixel is on a stroke where red, green or blue is under 192.",
    )
    control: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="Name of the control that reads control_image. Absent: the model's first."
    )
    control_scale: float | None = Field(
        default=None, ge=0, le=4, description="Strength of control_image, by default 1."
    )
    control_start: Share | None = Field(
        default=None, description="Share of the steps before control_image acts, by default 0."
    )
    control_end: Share | None = Field(
        default=None, description="Share of the steps after which control_image no longer acts, by default 1."
    )
    solver: SolverName | None = Field(default=None, description="Solver of the steps. Diffusion models only.")
    eta: float | None = Field(
        default=None, ge=0, le=1, description="Fraction of the ancestral noise that the solver ddim adds, by default 0."
    )
    truncation: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Factor of the starting noise: below 1, pictures vary less. Not for diffusion models.",
    )
    latents: Numbers | None = Field(
        default=None,
        description="Latents that the pictures start from instead of noise, (n, *latent_shape): a nested list, or a "
        ".npy file in base64. n may be omitted.",
    )
    image: Upload | None = Field(
        default=None,
        description="Picture to start from. Diffusion models add noise according to strength (image to image); models "
        "with an encoder generate variations. Base64, a data URI, a file of a form, or the whole body.",
    )
    strength: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Fraction of the steps that change image; 1 redraws all of it. Absent: 0.6, or 1 with a mask. "
        "Diffusion models only.",
    )
    mask: Upload | None = Field(
        default=None,
        description="Part of image to redraw: white is redrawn, black is kept, grey is blended (models with prompts: "
        "redrawn from half grey on). Diffusion models only.",
    )
    mask_invert: bool = Field(default=False, description="Redraw the black part of mask and keep the white one.")
    spread: float | None = Field(
        default=None,
        ge=0,
        le=4,
        description="Distance of variations from image, as a factor of the encoder's standard deviation, by default 1; "
        "0: the reconstruction. Only for models with an encoder that are not diffusion models.",
    )
    point: Annotated[list[Coordinate], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="A point x, y of the model's latent map, to be decoded."
    )

    @property
    def count(self) -> int:
        """Number of pictures."""
        if self.seeds is not None:
            return len(self.seeds)
        if "n" in self.model_fields_set:
            return self.n
        if isinstance(self.prompt, list):
            return len(self.prompt)
        return self.n if self.latents is None else max((1, *self.latents.shape[:1]))

    @property
    def has_start(self) -> bool:
        """Whether its pictures start from a picture, latents or a point of the map."""
        return any(each is not None for each in (self.image, self.latents, self.point))


class Point(Fields):
    """A point of a path: a seed (random if nothing is given), an uploaded picture, or a latent."""

    seed: SeedNumber | None = Field(default=None, description="Seed of the noise, as in /generate. Random if absent.")
    image: Upload | None = Field(
        default=None,
        description="Picture that is encoded, or inverted to the noise it comes from (DDIM): base64 or a data URI.",
    )
    latents: Numbers | None = Field(
        default=None, description="The latent, (*latent_shape): a nested list, or a .npy file in base64."
    )
    class_label: ClassLabel | None = Field(
        default=None, description="Index or name of a class. Absent: the class of the whole path."
    )
    prompt: Prompt | None = Field(
        default=None, description="What its picture shows. Absent: the prompt of the whole path."
    )


class InterpolateRequest(Sampling):
    """The body of POST /interpolate."""

    task = "interpolate"
    natural_layout = "strip"

    model: Annotated[str, Field(max_length=64)] = Field(description="Name of the model.", examples=["vae"])
    start: Point | None = Field(default=None, alias="from", description="First point of the path.")
    end: Point | None = Field(default=None, alias="to", description="Last point of the path.")
    points: list[Point] | None = Field(
        default=None, min_length=2, max_length=8, description="Points of the path in order, instead of from and to."
    )
    frames: int = Field(default=10, ge=2, description="Number of pictures on the path, with both ends.")
    method: Literal["auto", "linear", "slerp"] = Field(
        default="auto",
        description="slerp keeps the norm of Gaussian noise. auto: linear where pictures are encoded to latents, else "
        "slerp.",
    )
    easing: Easing = Field(
        default="linear", description="Speed along the path: constant, or cosine, slow at each point and fast between."
    )
    loop: bool = Field(default=False, description="Continue from the last point to the first, which is not repeated.")
    class_label: ClassLabel | None = Field(
        default=None,
        description="Index or name of the class of all points that have none of their own. 'none': no class. Absent: "
        "the class of the first point, which its seed decides if necessary.",
        examples=[7],
    )
    prompt: Prompt | None = Field(
        default=None,
        description="What the pictures of all points show that have no prompt of their own. Models with prompts only.",
    )
    negative_prompt: Prompt | None = Field(
        default=None, description="What guidance leads away from, on the whole path. Models with prompts only."
    )
    lora: Lora | LoraText | None = Field(default=None, description="A LoRA of the model, as in /generate.")
    solver: DeterministicSolver | None = Field(
        default=None,
        description="A deterministic solver, so that the starting noise alone decides the picture. With images: ddim.",
    )

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.frames

    @property
    def key_points(self) -> list[Point]:
        """The points of the path in order."""
        return self.points or [self.start or Point(), self.end or Point()]


class InspectRequest(Fields):
    """The body of POST /inspect."""

    image: Upload = Field(description="A PNG of this service, as base64 or a data URI.")


class Parameters(Fields):
    """The text that a PNG carries: the request that generates it again."""

    model: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    model_version: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    path: Annotated[str, Field(pattern=r"^/[a-z0-9/_-]{1,99}$")]
    params: Params
