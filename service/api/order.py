"""The order, a checked request that every task creates, and its output, which every answer shows."""

import hashlib
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from service import images
from service.api.prompts import Reading
from service.api.request.arrays import Floats
from service.api.request.layout import Layout
from service.api.request.prompt_fields import image_shape_of
from service.api.request.schemas import Params, Task
from service.engine.deployment import Deployment
from service.engine.model import Model
from service.engine.pricing import Part
from service.engine.results import Latent, Preview
from service.engine.rows import RowSpec, Size

Kind = Literal["generation", "interpolation", "encoding", "latent-map"]


class Cache(NamedTuple):
    """The ETag and Cache-Control of an answer that may be cached."""

    etag: bytes
    control: bytes


class Uploads:
    """Files of a request by field, each held until it is taken to be decoded."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {**files}

    @property
    def files(self) -> Mapping[str, bytes]:
        """The files that were not taken yet."""
        return self._files

    @property
    def size(self) -> int:
        """Bytes of the files that were not taken yet."""
        return sum(map(len, self._files.values()))

    def take(self, field: str) -> bytes:
        """The file of ``field``, which is no longer held here."""
        return self._files.pop(field)

    def digest(self) -> bytes:
        """A digest of the files and their fields."""
        hashed = hashlib.blake2b(digest_size=16)
        for field, file in self._files.items():
            hashed.update(b"%d %d %s" % (len(field), len(file), field.encode()))
            hashed.update(file)
        return hashed.digest()


class Walk(NamedTuple):
    """An interpolation, one entry per frame: its position, the norm of its latent, and the uploaded picture, if any."""

    t: Sequence[float]
    latent_norm: Sequence[float]
    sent: Sequence[images.Pixels | None]


class Codes(NamedTuple):
    """Encodings of the ``sent`` pictures: ``latents`` (n, 2, *latent), mean and log-variance, or (n, *latent)."""

    latents: Floats
    sent: Sequence[images.Pixels]
    variational: bool


#: Computes the rows of the next part before the pictures.
Compute = Callable[[Sequence[RowSpec]], Awaitable[Sequence[Latent]]]
#: Prepares what the rows of an order begin from, and returns the order to compute.
Begin = Callable[["Order", Compute], Coroutine[Any, Any, "Order"]]


class Order(NamedTuple):
    """One checked request: a picture for each of ``rows``, answered as ``media`` and laid out as ``asked`` says.

    Creating an order decodes and computes nothing. Where rows begin from something that takes work, ``begin`` does
    that work after admission: it decodes ``uploads``, and the engine computes the parts ``before`` the pictures.
    ``asked`` is the request without its files; ``edited`` the one that an edit (``dialects.edits``) came from.

    ``path`` and ``params`` are a request that reproduces the pictures; ``begin`` adds what is unknown before.
    ``reading`` has the texts of the prompts until they are read. ``seeds`` has a seed per picture, None where no seed
    alone reproduces it. ``layout`` is how one image shows all pictures. ``warnings`` list changes to the input that the
    request did not ask for. Without ``cache`` the answer may not be stored. ``dialect`` is as in ``store.job.About``.
    """

    deployment: Deployment
    rows: Sequence[RowSpec]
    asked: Task
    media: str
    path: str
    params: Params
    seeds: Sequence[int | None]
    layout: Layout
    kind: Kind = "generation"
    warnings: Sequence[str] = ()
    walk: Walk | None = None
    codes: Codes | None = None
    cache: Cache | None = None
    uploads: Uploads | None = None
    before: Sequence[Part] = ()
    begin: Begin | None = None
    edited: Task | None = None
    reading: Reading | None = None
    dialect: str = ""

    @property
    def model(self) -> Model:
        """The model that computes it."""
        return self.deployment.model

    @property
    def parts(self) -> Sequence[Part]:
        """All parts that the engine computes: those before the pictures, and the pictures, priced by the longest."""
        calls, pixels = max([row.calls for row in self.rows]), relative_pixels(self.model, self.rows[0].size)
        return *self.before, Part(len(self.rows), calls, pixels=pixels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(channel, height, width) of its pictures."""
        return image_shape_of(self.model, self.rows[0].size)

    @property
    def size(self) -> int:
        """Bytes of its files and latents."""
        latents = {id(tensor): tensor.nbytes for row in self.rows for tensor in _tensors(row)}
        return sum(latents.values()) + (0 if self.uploads is None else self.uploads.size)


class Output(NamedTuple):
    """What the engine computed for an order: pictures, seconds of waiting and of computing, previews for a film."""

    pictures: Sequence[images.Pixels]
    queue_s: float
    compute_s: float
    film: Sequence[Preview] = ()


def without(value: Any, *kinds: type) -> Any:  # noqa: ANN401  (any field's value)
    """``value`` with None in place of everything of these ``kinds``, at any depth."""
    if isinstance(value, kinds):
        return None
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: without(each, *kinds) for name, each in value})
    return [without(each, *kinds) for each in value] if isinstance(value, list) else value


def relative_pixels(model: Model, size: Size | None) -> float:
    """The work of a picture of ``size`` as a multiple of one of the model's own size."""
    _, height, width = model.manifest.image_shape
    return 1.0 if size is None else math.prod(size) / (height * width)


def _tensors(row: RowSpec) -> Sequence[Tensor]:
    conditions = [] if row.conditions is None else [*row.conditions.inputs.values(), *row.conditions.negative.values()]
    return [tensor for tensor in (row.latent, *(row.inpaint or ()), *conditions) if tensor is not None]
