"""Responses of the service as typed values. Unknown fields, of a later version, are ignored."""

import io
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import httpx
from pydantic import Base64Bytes, Field, TypeAdapter, ValidationError

from service.client.errors import UnexpectedAnswer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
Params = dict[str, Any]
Png = Annotated[Base64Bytes, Field(alias="b64_json")]


@dataclass(frozen=True, slots=True)
class Image:
    """One picture. ``seed`` generates it again alone; it is None for a frame between two pictures."""

    index: int
    seed: int | None
    class_label: str | None
    png: Png
    width: int
    height: int

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the PNG, which contains the parameters to generate it again."""
        return _write(Path(path), self.png)

    def array(self) -> "NDArray[np.uint8]":
        """The pixels, uint8 (height, width, channel). Needs numpy and Pillow."""
        import numpy as np
        from PIL import Image as Pillow

        with Pillow.open(io.BytesIO(self.png)) as picture:
            pixels = np.asarray(picture)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels


@dataclass(frozen=True, slots=True)
class Timings:
    """Times of a request, in milliseconds."""

    queue_ms: float
    compute_ms: float
    encode_ms: float
    total_ms: float
    ms_per_step: float | None


@dataclass(frozen=True, slots=True)
class Code:
    """An encoded picture: ``mean`` and ``logvar`` of an encoder, or the ``latent`` of DDIM inversion.

    Each is a nested list, (*latent_shape). ``mse`` is the reconstruction error, with grey levels 0 to 1; ``psnr`` is
    the same in decibels, None if there is no error.
    """

    index: int
    mse: float
    psnr: float | None
    mean: list[Any] | None = None
    logvar: list[Any] | None = None
    latent: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """Pictures and the parameters they were generated with; ``codes`` only for /encode."""

    id: str
    model: str
    model_version: str
    images: tuple[Image, ...]
    params: Params
    warnings: tuple[str, ...]
    timings: Timings
    reproduce: str
    codes: tuple[Code, ...] | None = None

    @property
    def seeds(self) -> tuple[int | None, ...]:
        """The seed of each picture."""
        return tuple(image.seed for image in self.images)

    def save(self, folder: str | PathLike[str]) -> list[Path]:
        """Write each picture as <folder>/0000.png, 0001.png, ...; the folder is created."""
        return [image.save(Path(folder) / f"{image.index:04}.png") for image in self.images]

    def array(self) -> "NDArray[np.uint8]":
        """The pixels of all pictures, uint8 (n, height, width, channel). Needs numpy and Pillow."""
        import numpy as np

        return np.stack([image.array() for image in self.images])


@dataclass(frozen=True, slots=True)
class File:
    """Pictures in the requested format: an image, an animation, an array or an archive."""

    content: bytes
    media_type: str
    model: str
    model_version: str
    seeds: tuple[int, ...]

    def save(self, path: str | PathLike[str]) -> Path:
        """Write ``content``."""
        return _write(Path(path), self.content)


@dataclass(frozen=True, slots=True)
class Model:
    """A served model. ``image_shape`` is (channel, height, width).

    ``capabilities`` are those of its files; ``does`` names the operations that requests may use.
    """

    name: str
    version: str
    family: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    capabilities: tuple[str, ...]
    limits: dict[str, int]
    does: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Health:
    """State of the service: the version of each served model, and why others failed to load."""

    live: bool
    status: Literal["ready", "degraded", "not ready"]
    models: dict[str, str]
    refused: dict[str, str]


@dataclass(frozen=True, slots=True)
class Inspection:
    """How a PNG was generated. ``served_version`` is the version of its model that is served now, or None."""

    model: str
    model_version: str
    path: str
    params: Params
    served_version: str | None
    curl: str
    python: str


@dataclass(frozen=True, slots=True)
class JobStatus:
    """State of a job: ``progress`` 0 to 1, and ``eta_ms`` milliseconds until its end, if known."""

    id: str
    status: Literal["queued", "running", "succeeded", "failed", "canceled"]
    model: str
    progress: float
    step: int
    steps: int
    queue_position: int
    eta_ms: float | None
    params: Params

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self.status not in ("queued", "running")


def read_json(kind: type[T], content: bytes | str) -> T:
    """Parse ``content``, JSON, as ``kind``. Raises UnexpectedAnswer."""
    try:
        return TypeAdapter(kind).validate_json(content)
    except ValidationError as failure:
        raise UnexpectedAnswer(f"The response is not a {kind.__name__}: {failure.errors()[0]['msg']}.") from None


def read_file(response: httpx.Response) -> File:
    """The file in ``response``. Raises UnexpectedAnswer."""
    headers = response.headers
    try:
        seeds = tuple(int(seed) for seed in headers["x-seed"].split(", ") if seed)
        media_type, model, version = headers["content-type"], headers["x-model"], headers["x-model-version"]
    except (KeyError, ValueError):
        raise UnexpectedAnswer("The response does not have the headers of pictures.") from None
    return File(response.content, media_type, model, version, seeds)


def _write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
