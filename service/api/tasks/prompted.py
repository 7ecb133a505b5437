"""Pictures of prompts: an order's texts, uploads and sizes become the inputs of its rows."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from service.api.order import Compute, Order, Uploads, relative_pixels, without
from service.api.prompts import Embedding, PromptCache, Text
from service.api.request.arrays import Floats, to_base64
from service.api.request.capabilities import paints_in
from service.api.request.prompt_fields import adapters_of, control_of, each_of
from service.api.request.schemas import GenerateRequest, Params
from service.api.request.start_fields import strength_of
from service.api.request.uploads import Fitted
from service.api.state import State
from service.api.tasks.prompt_warnings import sketch_warnings
from service.api.tasks.starts import data_uri, encoding, read_upload
from service.api.tasks.texts import Texts, read_texts, reading_parts
from service.contract.text import SKETCH
from service.engine.initial_latents import from_picture, image_tensor, repaint_mask, strokes, tensor_of
from service.engine.model import Model
from service.engine.results import Latent
from service.engine.rows import RowSpec, encode_row
from service.models.conditions import Control, conditioned
from service.models.diffusers.rows import from_code, hidden, painted_in
from service.settings import Settings


@dataclass(frozen=True)
class _Asked:
    """What the rows of an order are conditioned on: the texts for each picture; for all of them the rest."""

    texts: Texts
    guidance_scale: float
    strength: float
    mask_invert: bool
    control: str
    control_scale: float
    control_window: tuple[float, float]
    latents: Floats | None


@dataclass(frozen=True)
class _Sent:
    """The uploads of an order at the size of its pictures, by field."""

    fitted: Mapping[str, Fitted]

    def image(self) -> Tensor | None:
        """(3, height, width) in [-1, 1]."""
        return image_tensor(self.fitted["image"].pixels) if "image" in self.fitted else None

    def mask(self, *, invert: bool) -> Tensor | None:
        """(1, height, width), 1 where to redraw: models in diffusers' format do not blend grey."""
        if "mask" not in self.fitted:
            return None
        white = torch.from_numpy(self.fitted["mask"].pixels[None, :, :, 0] >= 128)
        return (white ^ invert).float()

    def soft_mask(self, model: Model, *, invert: bool) -> Tensor | None:
        """As ``mask`` with levels in between, for models that blend."""
        if "mask" not in self.fitted:
            return None
        return repaint_mask(self.fitted["mask"].pixels, model.manifest.latent_shape, invert=invert)

    def control(self, name: str) -> Tensor | None:
        """(3, height, width) in [0, 1]; of a sketch its strokes, (1, height, width)."""
        if "control_image" not in self.fitted:
            return None
        pixels = self.fitted["control_image"].pixels
        return strokes(pixels) if name == SKETCH else (image_tensor(pixels) + 1) / 2

    @property
    def params(self) -> Params:
        """The fields with these pictures."""
        return {name: data_uri(each.pixels) for name, each in self.fitted.items()}


def prompted(order: Order, body: GenerateRequest, state: State) -> Order:
    """``order`` of a model with prompts, conditioned as ``body`` says."""
    model, asked = order.model, _asked(order, body)
    reading = state.prompts.read(model, asked.texts.all(model))
    files = {"image": body.image, "mask": body.mask, "control_image": body.control_image}
    sent = {field: file for field, file in files.items() if file is not None}
    pictures = 0 if body.image is None else 1 + paints_in(model)
    return order._replace(
        asked=without(order.asked, bytes),
        uploads=Uploads(sent) if sent else None,
        reading=reading,
        before=[*reading_parts(reading), *encoding(model, pictures, relative_pixels(model, order.rows[0].size))],
        begin=partial(_begin, state.settings, state.prompts, asked),
        params=order.params | _start_params(body),
    )


def _asked(order: Order, body: GenerateRequest) -> _Asked:
    count, conditioning, scale = len(order.rows), order.model.manifest.conditioning, order.params["guidance_scale"]
    assert conditioning is not None
    assert isinstance(scale, float | int)
    return _Asked(
        texts=Texts(
            prompts=each_of(body.prompt or "", count),
            negatives=each_of(body.negative_prompt, count),  # type: ignore[arg-type]
            adapters=adapters_of(body),
            guided=order.rows[0].weight != 1,
        ),
        guidance_scale=scale,
        strength=strength_of(body),
        mask_invert=body.mask_invert,
        control="" if body.control_image is None else control_of(body, conditioning),
        control_scale=1.0 if body.control_scale is None else body.control_scale,
        control_window=(body.control_start or 0.0, 1.0 if body.control_end is None else body.control_end),
        latents=None if body.latents is None else body.latents.numpy(),
    )


def _start_params(body: GenerateRequest) -> Params:
    params: Params = {}
    if body.image is not None:
        params["strength"] = strength_of(body)
    if body.mask_invert:
        params["mask_invert"] = True
    if body.latents is not None:
        params["latents"] = to_base64(body.latents.numpy())
    return params


async def _begin(settings: Settings, cache: PromptCache, asked: _Asked, order: Order, compute: Compute) -> Order:
    """Rows with their inputs: first all uploads are decoded, then the texts are read, then the pictures encoded."""
    sent = await _decoded(order, settings)
    assert order.reading is not None
    known = await read_texts(order.model, order.reading, cache, compute)
    codes = await _encoded(order.model, order.rows[0], asked, sent, compute)
    rows = await asyncio.to_thread(_rows, order, asked, known, codes, sent)
    warnings = [
        *asked.texts.warnings(order.model, known),
        *(line for each in sent.fitted.values() for line in each.warnings),
        *sketch_warnings(sent.control(asked.control)),
    ]
    return order._replace(rows=rows, params=order.params | sent.params, warnings=warnings)


async def _decoded(order: Order, settings: Settings) -> _Sent:
    fields = [] if order.uploads is None else [*order.uploads.files]
    channels = {"mask": 1}
    return _Sent({field: await read_upload(order, field, settings, channels=channels.get(field)) for field in fields})


async def _encoded(model: Model, row: RowSpec, asked: _Asked, sent: _Sent, compute: Compute) -> Sequence[Latent]:
    """The encoder's results for the picture, and where the network is given it, for the picture without its mask."""
    image, mask = sent.image(), sent.mask(invert=asked.mask_invert)
    if image is None or model.encode is None:
        return ()
    pictures = [image] if mask is None or not paints_in(model) else [image, hidden(image, mask)]
    return await compute([encode_row(picture, 0)._replace(size=row.size) for picture in pictures])


def _rows(
    order: Order, asked: _Asked, known: Mapping[Text, Embedding], codes: Sequence[Latent], sent: _Sent
) -> Sequence[RowSpec]:
    controls = {}
    if (hint := sent.control(asked.control)) is not None:
        controls[asked.control] = Control(hint, asked.control_scale, *asked.control_window)
    rows = []
    for index, row in enumerate(order.rows):
        adapter, (own, negative) = asked.texts.adapters[index], asked.texts.inputs(index, order.model, known)
        row = conditioned(order.model, row, asked.guidance_scale, own, negative, controls=controls, adapter=adapter)
        rows.append(_started(order.model, row, index, asked, codes, sent))
    return rows


def _started(model: Model, row: RowSpec, index: int, asked: _Asked, codes: Sequence[Latent], sent: _Sent) -> RowSpec:
    """``row`` that begins from the latents or the picture of its request, if it has any."""
    if asked.latents is not None:
        return row._replace(latent=row.plan.start_from_noise(tensor_of(asked.latents[index])))
    image, mask = sent.image(), sent.mask(invert=asked.mask_invert)
    if image is None:
        return row
    if not codes:  # its latents are pictures
        mask = sent.soft_mask(model, invert=asked.mask_invert)
        return from_picture([row], image, mask, asked.strength)[0]
    if mask is None:
        return from_code(row, codes[0])
    return painted_in(model, row, codes[0], codes[-1], mask, asked.strength)
