"""What requests and answers look like. Bounds that depend on the model or the settings are checked in `resolve`."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, JsonValue

from service.api.request.arrays import Numbers
from service.api.request.fields import Fields
from service.api.request.negotiation import Format
from service.api.request.uploads import Upload
from service.contract.manifest import SolverName
from service.images import grid_columns
from service.sampling.interpolate import Easing

LayoutName = Literal["auto", "grid", "strip", "sprite", "list", "film"]
ClassLabel = int | Annotated[str, Field(max_length=64)]
Coordinate = Annotated[float, Field(ge=-1000, le=1000)]
SeedNumber = Annotated[int, Field(ge=0, lt=2**32)]
Seed = Annotated[
    SeedNumber,
    Field(description="Seed of the first picture; picture i has (seed + i) mod 2^32. Drawn if absent."),
]
Params = dict[str, JsonValue]


class Showing(Fields):
    """The fields that say how pictures are answered, and decide none."""

    #: Fields that a query may hold several times, each time with one value of their list.
    repeatable: ClassVar[frozenset[str]] = frozenset()
    #: What ``layout`` auto means where one image shows all pictures.
    natural_layout: ClassVar[Literal["grid", "strip"]] = "grid"

    scale: int = Field(default=1, ge=1, le=32, description="Every pixel becomes scale x scale pixels.")
    format: Format | None = Field(
        default=None, description="Form of the answer; stronger than Accept, which decides where this is absent."
    )
    layout: LayoutName = Field(
        default="auto",
        description="How png, webp and jpeg show several pictures in one image: a near-square grid, a strip of one "
        "row, or a sprite, the grid without gaps. The other formats hold a list, one picture after another. auto is "
        "what the format can, and a strip rather than a grid for a path. film, also of gif: each picture on its way, a "
        "row for each kind of preview, a column every preview_every steps, and the picture last; only models that "
        "denoise.",
    )
    fps: int | None = Field(
        default=None, ge=1, le=50, description="Frames a second of a gif, 10 where absent; the other formats have none."
    )
    quality: int | None = Field(
        default=None,
        ge=1,
        le=100,
        description="Of webp and jpeg: more is larger and nearer to the picture. Absent: webp without any loss, jpeg "
        "at 90. The other formats lose nothing (gif: nothing of grey pictures).",
    )
    timeout_ms: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="For how long the answer is of use: refused at once when the queue is too long for it, else given "
        "up after it. Absent, or above the service's own limit: that limit.",
        examples=[5000],
    )
    version: str | None = Field(
        default=None,
        max_length=64,
        description="The version of the model that must make the pictures, as X-Model-Version tells it: any other is "
        "404. A GET with it and a seed may be cached for ever.",
    )
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = Field(
        default=None, max_length=16, description="Given back as it is in a JSON answer. Not in a query."
    )


class Task(Showing):
    """The fields of all that computes pictures."""

    @property
    def count(self) -> int:
        """Number of pictures."""
        raise NotImplementedError

    @property
    def columns(self) -> int:
        """Columns of the single image that shows all pictures, where it is no film."""
        if self.layout == "auto":
            return self.count if self.natural_layout == "strip" else grid_columns(self.count)
        return self.count if self.layout == "strip" else grid_columns(self.count)

    steps: int | None = Field(default=None, ge=1, description="Solver steps; only models that denoise.", examples=[20])
    stream: bool = Field(
        default=False,
        description="Answer with events as they happen (text/event-stream), as Accept: text/event-stream does too.",
    )
    preview_every: int | None = Field(
        default=None,
        ge=0,
        le=1_000_000,
        description="Steps between two previews of a picture on its way, which a stream, a job and a film have; 0 is "
        "none. Absent: about ten in a stream and a film, none in a job. Only models that denoise.",
    )
    preview_kind: Literal["x0", "xt", "both"] | None = Field(
        default=None,
        description="What previews show: x0, the clean picture that is predicted there; xt, the noisy state; or both. "
        "Absent: both in a film, else x0. Only models that denoise.",
    )


class Sampling(Task):
    """The fields that generating and interpolating share."""

    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Classifier-free guidance: 1 is none, more exaggerates the class; only models that denoise.",
    )
    negative_class: ClassLabel | None = Field(
        default=None,
        description="Index or name of a class that guidance leads away from, instead of from no class.",
    )


class GenerateRequest(Sampling):
    """The body of POST /generate/{model}. All fields are optional."""

    repeatable = frozenset({"seeds", "class_label", "point"})

    n: int = Field(default=1, ge=1, description="Number of pictures.", examples=[4])
    seed: Seed | None = None
    seeds: Annotated[list[SeedNumber], Field(fail_fast=True)] | None = Field(
        default=None, min_length=1, description="The seed of each picture, instead of seed; n may be left out."
    )
    class_label: ClassLabel | Annotated[list[ClassLabel], Field(fail_fast=True)] | None = Field(
        default=None,
        description="Index or name of a class, or a list with that of each picture. Absent: all classes in turn, seed "
        "modulo their number, or none where image, latents or point say what to begin from. 'none': no class, the "
        "model's unconditional pictures.",
        examples=[7],
    )
    solver: SolverName | None = Field(default=None, description="How steps are taken; only models that denoise.")
    eta: float | None = Field(
        default=None, ge=0, le=1, description="How much of the ancestral noise the solver ddim adds; absent, 0."
    )
    truncation: float | None = Field(
        default=None,
        ge=0,
        le=2,
        description="Scales the starting noise: below 1, pictures vary less. Not of models that denoise.",
    )
    latents: Numbers | None = Field(
        default=None,
        description="What each picture begins from instead of noise, (n, *latent_shape): a nested list, or a .npy file "
        "in base64. n may be left out.",
    )
    image: Upload | None = Field(
        default=None,
        description="A picture to begin from: brought to the noise of strength by models that denoise; encoded by "
        "others that can, whose pictures are variations of it. Base64 or a data URI, a file of a form, or the body.",
    )
    strength: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="How much of image is made anew, 1 all. Absent: 0.6, with a mask 1. Only models that denoise.",
    )
    mask: Upload | None = Field(
        default=None,
        description="Which of image is made anew: white is, black is kept, grey is a blend. Only models that denoise.",
    )
    mask_invert: bool = Field(default=False, description="Black is made anew, and white is kept.")
    spread: float | None = Field(
        default=None,
        ge=0,
        le=4,
        description="How far variations of image are from it: 1 as the encoder says, which is the default; 0 is the "
        "picture as the model sees it. Only models that encode and do not denoise.",
    )
    point: Annotated[list[Coordinate], Field(min_length=2, max_length=2)] | None = Field(
        default=None, description="A point x, y of the model's latent map, whose picture is asked for."
    )

    @property
    def count(self) -> int:
        """Number of pictures."""
        if self.seeds is not None:
            return len(self.seeds)
        return self.n if self.latents is None or "n" in self.model_fields_set else max((1, *self.latents.shape[:1]))

    @property
    def begins(self) -> bool:
        """Whether it says what its pictures begin from."""
        return any(each is not None for each in (self.image, self.latents, self.point))


class Point(Fields):
    """A picture that a path leads through: that of a seed, one drawn if absent; one that is sent; or of a latent."""

    seed: SeedNumber | None = Field(default=None, description="Its noise is that of /generate. Drawn if absent.")
    image: Upload | None = Field(
        default=None,
        description="Encoded, or taken back to the noise it comes from (DDIM inversion): base64 or a data URI.",
    )
    latents: Numbers | None = Field(
        default=None, description="The latent itself, (*latent_shape): a nested list, or a .npy file in base64."
    )
    class_label: ClassLabel | None = Field(
        default=None, description="Index or name of a class. Absent: that of the whole path."
    )


class InterpolateRequest(Sampling):
    """The body of POST /interpolate."""

    natural_layout = "strip"

    model: Annotated[str, Field(max_length=64)] = Field(description="Name of the model.", examples=["vae"])
    start: Point | None = Field(default=None, alias="from", description="Where the path begins.")
    end: Point | None = Field(default=None, alias="to", description="Where the path ends.")
    points: list[Point] | None = Field(
        default=None, min_length=2, max_length=8, description="What the path leads through, instead of from and to."
    )
    frames: int = Field(default=10, ge=2, description="Pictures on the path, both ends included.")
    method: Literal["auto", "linear", "slerp"] = Field(
        default="auto",
        description="slerp keeps the norm that Gaussian noise has. auto is slerp, or linear where a picture is encoded "
        "to what the path goes through.",
    )
    easing: Easing = Field(default="linear", description="cosine: slow at every point, fast between them.")
    loop: bool = Field(default=False, description="Lead from the last point back to the first, which is not repeated.")
    class_label: ClassLabel | None = Field(
        default=None,
        description="Index or name of a class, of all points that have none of their own. Absent: that of the first "
        "point, by its seed if need be. 'none': no class.",
        examples=[7],
    )
    solver: Literal["ddim", "dpmpp_2m"] | None = Field(
        default=None,
        description="A deterministic solver, so that the starting noise alone decides the picture; ddim for images.",
    )

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.frames

    @property
    def key_points(self) -> list[Point]:
        """What the path leads through."""
        return self.points or [self.start or Point(), self.end or Point()]


class InspectRequest(Fields):
    """The body of POST /inspect."""

    image: Upload = Field(description="A PNG that this service made, base64 or a data URI.")


class Parameters(Fields):
    """What a PNG carries in its text: which request of which model makes it."""

    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    model_version: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    path: Annotated[str, Field(pattern=r"^/[a-z0-9/_-]{1,99}$")]
    params: Params
