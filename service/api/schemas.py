"""What requests and answers look like. Bounds that depend on the model or the settings are checked in `resolve`."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from service.contract.manifest import Capability, Manifest, SolverName
from service.images import grid_columns

Seed = Annotated[
    int,
    Field(ge=0, lt=2**32, description="Seed of the first picture; picture i has seed + i. Drawn if absent."),
]


class _Request(BaseModel):
    # Strict, so that "3" or true is told apart from 3; a NaN guidance scale would poison its row.
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)


class Sampling(_Request):
    """The fields that generating and interpolating share."""

    class_label: int | Annotated[str, Field(max_length=64)] | None = Field(
        default=None,
        description="Index or name of a class. Absent: all classes in turn, seed modulo their number; for an "
        "interpolation, the class of its first seed. 'none': no class, the model's unconditional pictures.",
        examples=[7],
    )
    steps: int | None = Field(default=None, ge=1, description="Solver steps; only models that denoise.", examples=[20])
    guidance_scale: float | None = Field(
        default=None,
        ge=0,
        le=20,
        description="Classifier-free guidance: 1 is none, more exaggerates the class; only models that denoise.",
    )
    scale: int = Field(default=1, ge=1, le=32, description="Every pixel becomes scale x scale pixels.")
    timeout_ms: int | None = Field(
        default=None,
        ge=1,
        le=3_600_000,
        description="For how long the answer is of use: refused at once when the queue is too long for it, else given "
        "up after it. Absent, or above the service's own limit: that limit.",
        examples=[5000],
    )


class GenerateRequest(Sampling):
    """The body of POST /generate/{model}. All fields are optional."""

    n: int = Field(default=1, ge=1, description="Number of pictures.", examples=[4])
    seed: Seed | None = None
    solver: SolverName | None = Field(default=None, description="How steps are taken; only models that denoise.")

    @property
    def columns(self) -> int:
        """Columns of the single image that shows all pictures: a near-square grid."""
        return grid_columns(self.n)


class End(_Request):
    """One end of an interpolation."""

    seed: Seed | None = None


class InterpolateRequest(Sampling):
    """The body of POST /interpolate."""

    model: Annotated[str, Field(max_length=64)] = Field(description="Name of the model.", examples=["vae"])
    start: End = Field(default=End(), alias="from", description="Where the path begins.")
    end: End = Field(default=End(), alias="to", description="Where the path ends.")
    frames: int = Field(default=10, ge=2, description="Pictures on the path, both ends included.")
    method: Literal["auto", "linear", "slerp"] = Field(
        default="auto", description="slerp keeps the norm that Gaussian noise has, and is what auto takes."
    )
    solver: Literal["ddim", "dpmpp_2m"] | None = Field(
        default=None,
        description="A deterministic solver, so that the starting noise alone decides the picture.",
    )

    @property
    def columns(self) -> int:
        """Columns of the single image that shows all frames: one row."""
        return self.frames


class Timings(BaseModel):
    """Where the time went, in milliseconds."""

    queue_ms: float
    compute_ms: float
    encode_ms: float


class Picture(BaseModel):
    """One picture of an answer."""

    index: int
    seed: int | None = Field(description="What makes this picture again alone; none for a frame between two seeds.")
    class_label: str | None
    width: int
    height: int
    b64_png: str = Field(description="The PNG file, base64.")


class PicturesAnswer(BaseModel):
    """The JSON form of an answer."""

    model: str
    model_version: str
    params: dict[str, int | float | str | None] = Field(description="Every value that decided the pictures.")
    images: list[Picture]
    timings: Timings


class ModelCard(BaseModel):
    """What the manifest says of a model, without the file it is in."""

    name: str
    version: str
    family: str
    image_shape: tuple[int, int, int] = Field(description="(channel, height, width)")
    class_names: tuple[str, ...]
    capabilities: tuple[Capability, ...]
    limits: dict[str, int]
    manifest: Manifest


class Problem(BaseModel):
    """An error, as RFC 9457 problem details."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]] = Field(default_factory=list)
