"""One request, ready to be accepted, and what was made of it: what every task becomes and every answer shows."""

import hashlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from torch import Tensor

from service import images
from service.api.request.arrays import Floats
from service.api.request.layout import Layout
from service.api.request.schemas import Params, Task
from service.engine.deployment import Deployment
from service.engine.model import Model
from service.engine.pricing import Part
from service.engine.results import Latent, Preview
from service.engine.rows import RowSpec

Kind = Literal["generation", "interpolation", "encoding", "latent-map"]


class Cache(NamedTuple):
    """How long an answer may be kept, and the name of what it shows."""

    etag: bytes
    control: bytes


class Uploads:
    """Files of a request by their field, each kept until it is taken to be decoded."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = {**files}

    @property
    def size(self) -> int:
        """Bytes of those that were not taken."""
        return sum(map(len, self._files.values()))

    def take(self, field: str) -> bytes:
        """The file of ``field``, which is kept no longer."""
        return self._files.pop(field)

    def digest(self) -> bytes:
        """What tells these files from others."""
        hashed = hashlib.blake2b(digest_size=16)
        for field, file in self._files.items():
            hashed.update(b"%d %d %s" % (len(field), len(file), field.encode()))
            hashed.update(file)
        return hashed.digest()


class Walk(NamedTuple):
    """A path, an entry a frame: where it is, the norm of its latent, and the picture that was sent for it, if any."""

    t: Sequence[float]
    latent_norm: Sequence[float]
    sent: Sequence[images.Pixels | None]


class Codes(NamedTuple):
    """What ``sent`` pictures were encoded to: ``latents`` (n, 2, *latent), mean and log-variance; or (n, *latent)."""

    latents: Floats
    sent: Sequence[images.Pixels]
    variational: bool


#: Computes rows of the next of an order's parts that come before its pictures.
Compute = Callable[[Sequence[RowSpec]], Awaitable[Sequence[Latent]]]
#: Makes what the rows of an order begin from: the order as it is then computed.
Begin = Callable[["Order", Compute], Coroutine[Any, Any, "Order"]]


class Order(NamedTuple):
    """One request, checked and priced: ``rows``' pictures, answered as ``media`` in the way that ``asked`` says.

    Making an order computes and decodes nothing. Where its rows begin from something that takes work, ``begin`` does
    it once the order is accepted: it decodes ``uploads`` and has the engine compute the parts ``before`` the pictures.
    ``asked`` holds no files.

    ``path`` and ``params`` are the request that makes the same pictures, as far as they are known before ``begin``;
    ``seeds`` are those of the pictures: None for one that no seed makes alone. ``layout`` is how the
    answer shows them. ``warnings`` tell what the request did
    not ask for. Without ``cache``, nobody may keep the answer.
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

    @property
    def model(self) -> Model:
        """What computes it."""
        return self.deployment.model

    @property
    def parts(self) -> Sequence[Part]:
        """All that the engine computes for it: the pictures, each priced as the dearest, and what comes before."""
        return *self.before, Part(len(self.rows), max([row.calls for row in self.rows]))

    @property
    def size(self) -> int:
        """Bytes of the files and the latents that it holds."""
        latents = {id(tensor): tensor.nbytes for row in self.rows for tensor in _tensors(row)}
        return sum(latents.values()) + (0 if self.uploads is None else self.uploads.size)


class Made(NamedTuple):
    """What the engine made of an order: its pictures, seconds that it waited and computed, and their film if any."""

    pictures: Sequence[images.Pixels]
    queue_s: float
    compute_s: float
    film: Sequence[Preview] = ()


def without(value: Any, *kinds: type) -> Any:  # noqa: ANN401  (any field's value)
    """``value`` with None for everything of these ``kinds`` in it, however deep."""
    if isinstance(value, kinds):
        return None
    if isinstance(value, BaseModel):
        return value.model_copy(update={name: without(each, *kinds) for name, each in value})
    return [without(each, *kinds) for each in value] if isinstance(value, list) else value


def _tensors(row: RowSpec) -> Sequence[Tensor]:
    begins = [] if row.latent is None else [row.latent]
    return begins if row.inpaint is None else [*begins, *row.inpaint]
