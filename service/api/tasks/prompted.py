"""Pictures of prompts: an order's texts, uploads and sizes become the inputs of its rows."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from service.api.order import Compute, Order, Uploads, relative_pixels, without
from service.api.prompts import Embedding, PromptCache, Reading, Text
from service.api.request.arrays import Floats, to_base64
from service.api.request.capabilities import paints_in
from service.api.request.prompt_fields import adapters_of, control_of, each_of
from service.api.request.schemas import GenerateRequest, Params
from service.api.request.start_fields import strength_of
from service.api.request.uploads import Fitted
from service.api.state import State
from service.api.tasks.prompt_warnings import sketch_warnings, unread_warnings
from service.api.tasks.starts import data_uri, encoding, read_upload
from service.contract.text import SKETCH
from service.engine.initial_latents import from_picture, image_tensor, repaint_mask, strokes, tensor_of
from service.engine.model import Model
from service.engine.parts import no_prompt, prompt_inputs, text_row
from service.engine.pricing import Part
from service.engine.results import Latent
from service.engine.rows import Adapter, RowSpec, encode_row
from service.models.diffusers.rows import Control, conditioned, from_code, hidden, painted_in
from service.settings import Settings


@dataclass(frozen=True)
class _Asked:
    """What the rows of an order are conditioned on: for each picture its prompt, the one that guidance leads away from
    (None for no prompt), and its LoRA; for all of them the rest.
    """

    prompts: Sequence[str]
    negatives: Sequence[str | None]
    adapters: Sequence[Adapter | None]
    guidance_scale: float
    strength: float
    mask_invert: bool
    control: str
    control_scale: float
    control_window: tuple[float, float]
    latents: Floats | None

    def text(self, index: int) -> Text:
        """The text of a picture."""
        return Text(self.prompts[index], self.adapters[index])

    def away(self, index: int, order: Order) -> Text | None:
        """The text that guidance leads a picture away from; None where it is none, or without guidance."""
        negative = self.negatives[index]
        if order.rows[index].weight == 1 or (negative is None and no_prompt(order.model) is not None):
            return None
        return Text(negative or "", self.adapters[index])

    def texts(self, order: Order) -> Sequence[Text]:
        """The texts that must be read."""
        pictures = range(len(order.rows))
        away = [self.away(index, order) for index in pictures]
        return [*map(self.text, pictures), *(each for each in away if each is not None)]


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
    reading = state.prompts.read(model, asked.texts(order))
    files = {"image": body.image, "mask": body.mask, "control_image": body.control_image}
    sent = {field: file for field, file in files.items() if file is not None}
    pictures = 0 if body.image is None else 1 + paints_in(model)
    texts = [Part(len(reading.missing), 1, reads=True)] if reading.missing else []
    return order._replace(
        asked=without(order.asked, bytes),
        uploads=Uploads(sent) if sent else None,
        reading=reading,
        before=[*texts, *encoding(model, pictures, relative_pixels(model, order.rows[0].size))],
        begin=partial(_begin, state.settings, state.prompts, asked),
        params=order.params | _start_params(body),
    )


def _asked(order: Order, body: GenerateRequest) -> _Asked:
    count, conditioning, scale = len(order.rows), order.model.manifest.conditioning, order.params["guidance_scale"]
    assert conditioning is not None
    assert isinstance(scale, float | int)
    return _Asked(
        prompts=each_of(body.prompt or "", count),
        negatives=each_of(body.negative_prompt, count),  # type: ignore[arg-type]
        adapters=adapters_of(body),
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
    known = await _read(order.model, order.reading, cache, compute)
    codes = await _encoded(order.model, order.rows[0], asked, sent, compute)
    rows = await asyncio.to_thread(_rows, order, asked, known, codes, sent)
    warnings = [
        *unread_warnings(order.model, _readings(asked, known)),
        *(line for each in sent.fitted.values() for line in each.warnings),
        *sketch_warnings(sent.control(asked.control)),
    ]
    return order._replace(rows=rows, params=order.params | sent.params, warnings=warnings)


async def _decoded(order: Order, settings: Settings) -> _Sent:
    fields = [] if order.uploads is None else [*order.uploads.files]
    channels = {"mask": 1}
    return _Sent({field: await read_upload(order, field, settings, channels=channels.get(field)) for field in fields})


async def _read(model: Model, reading: Reading, cache: PromptCache, compute: Compute) -> Mapping[Text, Embedding]:
    """The embeddings of all texts; those that were missing are kept."""
    if not reading.missing:
        return reading.known
    assert model.tokenize is not None
    tokenize = model.tokenize
    tokens = await asyncio.to_thread(lambda: [tokenize(text.prompt) for text in reading.missing])
    rows = [text_row(each.ids, text.adapter) for each, text in zip(tokens, reading.missing, strict=True)]
    known = {**reading.known}
    for text, each, numbers in zip(reading.missing, tokens, await compute(rows), strict=True):
        known[text] = Embedding(prompt_inputs(model, numbers), each.dropped, each.unknown)
        cache.keep(model, text, known[text])
    return known


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
    zeros = no_prompt(order.model) or {}
    controls = {}
    if (hint := sent.control(asked.control)) is not None:
        controls[asked.control] = Control(hint, asked.control_scale, *asked.control_window)
    rows = []
    for index, row in enumerate(order.rows):
        adapter, away = asked.adapters[index], asked.away(index, order)
        own, negative = known[asked.text(index)].inputs, zeros if away is None else known[away].inputs
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


def _readings(asked: _Asked, known: Mapping[Text, Embedding]) -> Iterator[tuple[str, Embedding]]:
    """The texts that were read, with their field."""
    for field, prompts in (("prompt", asked.prompts), ("negative_prompt", asked.negatives)):
        for prompt, adapter in zip(prompts, asked.adapters, strict=True):
            read = known.get(Text(prompt, adapter)) if prompt else None
            if read is not None:
                yield field, read
