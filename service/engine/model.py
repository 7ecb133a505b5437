"""A loaded model: its manifest, and its functions on a device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import NamedTuple

import torch
from torch import Tensor

from service.contract.manifest import Manifest, SolverName
from service.engine.cost import CostModel
from service.engine.inputs import CLASSES, LABEL, Input
from service.sampling.diffusers_plan import make_diffusers_plan
from service.sampling.diffusers_schedule import DiffusionSchedule, PredictionType
from service.sampling.latent_map import LatentMap
from service.sampling.pixels import to_uint8
from service.sampling.schedules import max_steps
from service.sampling.solvers import EMPTY_PLAN, Plan, make_inversion_plan, make_plan
from service.sampling.step import Inputs

#: (x, t, inputs), and in calls with LoRAs ``adapters``, one or None per row; see ``service.sampling.step.Denoise``.
Denoise = Callable[..., Tensor]
#: (latents, inputs), and ``adapters`` as above.
Decode = Callable[..., Tensor]
Encode = Callable[[Tensor, Inputs], tuple[Tensor, Tensor]]

#: The solvers of models with a noise schedule of the trainer's.
OWN_SOLVERS: tuple[SolverName, ...] = ("ddpm", "ddim", "dpmpp_2m", "consistency")

_plan = lru_cache(maxsize=256)(make_plan)
_diffusers_plan = lru_cache(maxsize=256)(make_diffusers_plan)
_inversion_plan = lru_cache(maxsize=16)(make_inversion_plan)


def _as_pictures(images: Tensor) -> tuple[Tensor, Tensor]:
    return to_uint8(images), _finite(images)


def _as_numbers(numbers: Tensor) -> tuple[Tensor, Tensor]:
    return numbers.float(), _finite(numbers)


def _finite(rows: Tensor) -> Tensor:
    """Which rows are finite: only a finite number times 0 is 0. Seven times as fast as ``isfinite``."""
    return (rows * 0).flatten(1).sum(dim=1) == 0


# Scripted into one call, because every torch call releases the interpreter's lock and waits for it again.
_pictures, _numbers = torch.jit.script(_as_pictures), torch.jit.script(_as_numbers)


class Tokens(NamedTuple):
    """A prompt as ``ids`` (encoders, tokens) int64, and what of it was not read.

    ``dropped`` is the end of the prompt that did not fit, "" where all did; ``unknown`` are words without a token.
    """

    ids: Tensor
    dropped: str
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Model:
    """The functions of one artefact.

    ``inputs``: what its rows are conditioned on, by name; every function is given them, (batch, ...) each.
    ``decode``: (batch, *latent), inputs -> (batch, channel, height, width) in [-1, 1].
    ``denoise``: see ``service.sampling.step.Denoise``; None for one-shot models. It predicts the clean latent, or for
    plans of ``schedules`` the ``prediction`` of a network in diffusers' format.
    ``batch_sizes``: the sizes that batches are padded to, in ascending order; empty when any size is computed as it is.
    ``encode``: (batch, channel, height, width) in [-1, 1], inputs -> mean and log-variance, (batch, *latent) each; None
    without an encoder. ``latent_map``: the codes of training pictures, None without such a file.
    ``decodes_apart``: a picture is decoded in a lane of its own, because that takes as long as several steps.
    ``preview``: an approximation of ``decode`` that costs nearly nothing, for the previews of such a model.
    ``adapters``: the names of its LoRAs. ``encode_text``: ids (batch, encoders, tokens) int64, and ``adapters`` as in
    ``denoise``, -> the inputs that prompts give; None for models without prompts. ``tokenize``: the ids of a prompt.
    ``examples``: a few prompts whose words it knows.
    """

    manifest: Manifest
    device: torch.device
    decode: Decode
    denoise: Denoise | None
    batch_sizes: tuple[int, ...] = ()
    encode: Encode | None = None
    latent_map: LatentMap | None = None
    inputs: Mapping[str, Input] = field(default_factory=lambda: CLASSES)
    prediction: PredictionType | None = None
    schedules: Mapping[SolverName, DiffusionSchedule] = field(default_factory=dict)
    decodes_apart: bool = False
    preview: Decode | None = None
    adapters: tuple[str, ...] = ()
    encode_text: Callable[..., Mapping[str, Tensor]] | None = None
    tokenize: Callable[[str], Tokens] | None = None
    examples: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name in requests."""
        return self.manifest.name

    @property
    def row_shape(self) -> Sequence[int]:
        """The shape of a row's input: the latent's."""
        return self.manifest.latent_shape

    @property
    def decoded_shape(self) -> Sequence[int]:
        """The shape of ``decode``'s output per row: (channel, height, width)."""
        return self.manifest.image_shape

    @property
    def result_shape(self) -> Sequence[int]:
        """The shape of a row's result: (height, width, channel)."""
        channel, height, width = self.manifest.image_shape
        return height, width, channel

    def finish(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """Convert ``decode``'s output to results (batch, *result_shape), and say which rows are finite, (batch,)."""
        finished: tuple[Tensor, Tensor] = _pictures(decoded)
        return finished

    @property
    def max_steps(self) -> int:
        """The most steps that a plan may have; 0 for one-shot models."""
        if self.schedules:
            return max(schedule.max_steps for schedule in self.schedules.values())
        if self.denoise is None or self.manifest.noise_schedule is None or self.manifest.t_max is None:
            return 0
        return max_steps(self.manifest.noise_schedule, self.manifest.t_max)

    @property
    def solvers(self) -> tuple[SolverName, ...]:
        """The solvers that a plan may have; none for one-shot models."""
        return tuple(self.schedules) if self.schedules else OWN_SOLVERS if self.max_steps else ()

    def padding(self, rows: int) -> int:
        """Padding rows in a forward pass of ``rows`` rows."""
        if not self.batch_sizes:
            return 0
        last = rows % self.batch_sizes[-1]  # forward passes of the largest size have no padding
        return next(size - last for size in self.batch_sizes if size >= last) if last else 0

    def plan(
        self,
        solver: SolverName | None = None,
        steps: int | None = None,
        eta: float = 0.0,
        strength: float = 1.0,
    ) -> Plan:
        """The steps of one picture, by default those of the manifest; empty for one-shot models.

        Raises ValueError as ``make_plan``, or as ``make_diffusers_plan``.
        """
        manifest = self.manifest
        if self.schedules:
            return self._plan_of_schedule(solver, steps, eta, strength)
        if manifest.noise_schedule is None or manifest.t_max is None or manifest.defaults is None:
            return EMPTY_PLAN
        chosen = manifest.defaults
        return _plan(
            manifest.noise_schedule, manifest.t_max, solver or chosen.solver, steps or chosen.steps, eta, strength
        )

    def _plan_of_schedule(self, solver: SolverName | None, steps: int | None, eta: float, strength: float) -> Plan:
        assert self.manifest.defaults is not None
        solver, steps = solver or self.manifest.defaults.solver, steps or self.manifest.defaults.steps
        if solver not in self.schedules:
            raise ValueError(f"solver {solver!r} is not one of this model; allowed: {', '.join(self.schedules)}")
        pipeline = self.manifest.pipeline
        keep_steps = pipeline is not None and pipeline.class_name.startswith("LatentConsistency")
        return _diffusers_plan(self.schedules[solver], steps, eta, strength, keep_steps=keep_steps)

    def inversion_plan(self, steps: int) -> Plan:
        """The steps from a clean latent to its noise. Raises ValueError as ``make_plan``, and for one-shot models."""
        if self.schedules:
            raise ValueError(f"{self.name} reads prompts, so pictures cannot be inverted")
        if self.manifest.noise_schedule is None or self.manifest.t_max is None:
            raise ValueError(f"{self.name} generates its pictures without steps, so they cannot be inverted")
        return _inversion_plan(self.manifest.noise_schedule, self.manifest.t_max, steps)


class Encoder(Model):
    """A model's encoder. To the engine it is a one-shot model from images to mean and log-variance."""

    @property
    def name(self) -> str:
        """The name of its lane."""
        return encoder_name(self.manifest.name)

    @property
    def row_shape(self) -> Sequence[int]:
        """The shape of a row's input: the image's."""
        return self.manifest.image_shape

    @property
    def decoded_shape(self) -> Sequence[int]:
        """The shape of ``decode``'s output, here mean and log-variance: (2, *latent)."""
        return 2, *self.manifest.latent_shape

    @property
    def result_shape(self) -> Sequence[int]:
        """The shape of a row's result: (2, *latent)."""
        return self.decoded_shape

    def finish(self, decoded: Tensor) -> tuple[Tensor, Tensor]:
        """As ``Model.finish``, with unchanged float32 numbers."""
        finished: tuple[Tensor, Tensor] = _numbers(decoded)
        return finished


def encoder_name(model: str) -> str:
    """The name of the lane of a model's encoder."""
    return f"{model}/encode"


def encoder_of(model: Model) -> Encoder | None:
    """The model's encoder, None if it has none."""
    if model.encode is None:
        return None
    return Encoder(model.manifest, model.device, partial(_moments, model.encode), None, inputs=_classes_of(model))


def _classes_of(model: Model) -> Mapping[str, Input]:
    return {name: each for name, each in model.inputs.items() if name == LABEL}


def _moments(encode: Encode, image: Tensor, inputs: Inputs) -> Tensor:
    """Mean and log-variance, (batch, 2, *latent). Raises TypeError when ``encode`` returns anything else."""
    moments: object = encode(image, inputs)
    match moments:
        case (Tensor() as mean, Tensor() as logvar):
            return torch.stack((mean, logvar), dim=1)
    raise TypeError(f"encode returned {type(moments).__name__}, not a mean and a log-variance")


@dataclass(frozen=True)
class Served:
    """A verified and warmed model with its measured cost, and the same of its encoder, its text encoder and its decoder
    (``service.engine.parts``), each None without one.

    ``lane`` is the number of its lane in engine processes, and ``gate`` that of its gate among API processes; None
    where this process computes it, or admits alone.
    """

    model: Model
    cost: CostModel
    encoder: "Served | None" = None
    lane: int | None = None
    gate: int | None = None
    text: "Served | None" = None
    decoder: "Served | None" = None
