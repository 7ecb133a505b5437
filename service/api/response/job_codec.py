"""Jobs' events and results as bytes, for a store that outlives its process: ``service.store.codec.Codec``.

A result keeps its pixels and what rendering needs, so that any process renders it in any format, also when the model is
served no more. Its JSON answer is kept as it is, as the data of the last event.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch

from service.api.order import Codes, Order, Output
from service.api.request.layout import Layout
from service.api.request.schemas import Task
from service.api.response.job_events import error_json, event_json
from service.api.response.packed import pack, unpack
from service.api.state import JobResult, PictureJob
from service.engine.deployment import Deployment
from service.engine.results import Preview
from service.engine.rows import Film, RowSpec
from service.errors import ServiceError
from service.images import Pixels, grid_columns
from service.sampling.solvers import Plan
from service.store.events import Event

#: Fields of a request that decide how a result looks in another format.
_SHOWN = ("scale", "layout", "fps", "quality", "preview_every", "preview_kind")


class JobCodec:
    """``Codec`` of picture jobs."""

    def event(self, job: PictureJob, event: Event) -> bytes:
        """The JSON of ``event``."""
        return event_json(job, event)

    def error(self, id: str, failure: ServiceError) -> bytes:
        """The problem document of ``failure``."""
        return error_json(id, failure)

    def pack(self, result: JobResult) -> bytes:
        """Pixels, previews, latents, and the order as far as rendering needs it."""
        order, output = result.order, result.output
        kinds = [[preview.x_start, preview.x_t] for preview in output.film]
        film = [picture for both in kinds for picture in both if picture is not None]
        codes = None if order.codes is None else [order.codes.latents.shape, order.codes.variational]
        head = {
            "order": _packed_order(order),
            "headers": [[part.decode("latin-1") for part in header] for header in result.headers],
            "pictures": np.shape(output.pictures),
            "seconds": [output.queue_s, output.compute_s],
            "film": [[*preview[:4], *(picture is not None for picture in preview[4:])] for preview in output.film],
            "codes": codes,
        }
        latents = b"" if order.codes is None else order.codes.latents.tobytes()
        return pack(head, [_bytes_of(output.pictures), _bytes_of(film), latents])

    def unpack(self, packed: bytes, last: bytes) -> JobResult:
        """The result of ``pack``, its arrays read-only."""
        head, (pictures, film, latents) = unpack(packed)
        order = _unpacked_order(head["order"])
        if head["codes"] is not None:
            shape, variational = head["codes"]
            order = order._replace(codes=Codes(np.frombuffer(latents, np.float32).reshape(shape), (), variational))
        shape = head["pictures"]
        shown = _pictures_of(film, shape[1:])
        previews = [_preview(each, shown) for each in head["film"]]
        queue_s, compute_s = head["seconds"]
        output = Output(_pictures_of(pictures, shape[1:]), queue_s, compute_s, previews)
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in head["headers"]]
        return JobResult(order, output, last, headers)


class _StoredRequest(Task):
    """The request of a stored result, as far as rendering reads it."""

    pictures: int = 1
    natural: Literal["grid", "strip"] = "grid"

    @property
    def count(self) -> int:
        """Number of pictures."""
        return self.pictures

    @property
    def columns(self) -> int:
        """Columns of the single image that shows all pictures."""
        layout = self.natural if self.layout == "auto" else self.layout
        return self.count if layout == "strip" else grid_columns(self.count)


class _StoredManifest(NamedTuple):
    name: str
    version: str
    image_shape: Sequence[int]


class _StoredModel(NamedTuple):
    manifest: _StoredManifest

    @property
    def name(self) -> str:
        return self.manifest.name


class _NotObserved:
    def observe(self, _: float) -> None:
        """Rendering a stored result counts in no model's metrics: the model may not be served."""


class _StoredMetrics(NamedTuple):
    encode_seconds: _NotObserved


class _StoredDeployment(NamedTuple):
    """What rendering reads of a deployment."""

    model: _StoredModel
    metrics: _StoredMetrics = _StoredMetrics(_NotObserved())


def _packed_order(order: Order) -> dict[str, Any]:
    manifest, asked = order.model.manifest, order.asked
    return {
        "model": [manifest.name, manifest.version, manifest.image_shape],
        "asked": {name: getattr(asked, name) for name in _SHOWN}
        | {"pictures": len(order.rows), "natural": asked.natural_layout},
        "steps": order.rows[0].plan.steps,
        "media": order.media,
        "path": order.path,
        "params": order.params,
        "seeds": order.seeds,
        "layout": order.layout,
        "kind": order.kind,
    }


def _unpacked_order(packed: dict[str, Any]) -> Order:
    (tiles, columns, gap, film), steps = packed["layout"], packed["steps"]
    asked = _StoredRequest(**packed["asked"])
    deployment = cast(Deployment, _StoredDeployment(_StoredModel(_StoredManifest(*packed["model"]))))
    return Order(
        deployment=deployment,
        rows=[RowSpec(0, 0, 1.0, Plan(torch.empty(steps, 5)))] * asked.pictures,
        asked=asked,
        media=packed["media"],
        path=packed["path"],
        params=packed["params"],
        seeds=packed["seeds"],
        layout=Layout(tiles, columns, gap, None if film is None else Film(*film)),
        kind=packed["kind"],
    )


def _bytes_of(pictures: Sequence[Pixels]) -> bytes:
    return b"".join([picture.tobytes() for picture in pictures])


def _pictures_of(pixels: bytes, shape: Sequence[int]) -> list[Pixels]:
    return [*np.frombuffer(pixels, np.uint8).reshape(-1, *shape)]


def _preview(packed: Sequence[Any], pictures: list[Pixels]) -> Preview:
    """A preview whose pictures are the next of ``pictures``."""
    row, step, steps, t, has_start, has_xt = packed
    return Preview(row, step, steps, t, pictures.pop(0) if has_start else None, pictures.pop(0) if has_xt else None)
