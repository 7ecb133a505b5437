"""The manifest of a model: everything a reader must know besides the weights."""

import base64
import binascii
import math
import re
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    NonNegativeFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.contract.files import ContractError, open_regular_file
from service.contract.pipeline import Conditioning, Pipeline
from service.contract.records import HashedFile, Record
from service.contract.signature import ANYONE, MAX_SIGNED_BYTES, SecretKey, Trust, read_signed, replace_signed, sign
from service.contract.text import TextModel, conditioning_of

MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = MAX_SIGNED_BYTES
#: Most characters of an error's reason, which may quote a field name as long as the manifest.
MAX_REASON = 300

SolverName = Literal["ddpm", "ddim", "dpmpp_2m", "consistency", "euler", "euler_ancestral", "lcm"]
#: The solvers that add no noise: the starting noise alone decides the picture.
DeterministicSolver = Literal["ddim", "dpmpp_2m", "euler"]
Capability = Literal["generate", "interpolate", "encode", "decode"]
ManifestFamily = Literal["autoencoder", "vae", "gan", "ddpm", "ldm", "diffusers"]


class ManifestError(ContractError):
    """The manifest is missing, unreadable or invalid."""


def _iso_date(text: str) -> str:
    if date.fromisoformat(text).isoformat() != text:
        raise ValueError("must be a date YYYY-MM-DD")
    return text


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] >= bounds[1]:
        raise ValueError("the lower bound must come first")
    return bounds


def _distinct(values: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(values)) != len(values):
        raise ValueError("entries must be distinct")
    return values


NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")

Text = Annotated[str, Field(min_length=1)]


class NoiseSchedule(Record):
    """The forward process in discrete steps.

    "linear" and "cosine" preserve the variance: the betas of "linear" run from `beta_start` to `beta_end`, those of
    "cosine" follow the paper. "flow" is the straight line from picture to noise.
    """

    kind: Literal["linear", "cosine", "flow"]
    timesteps: Annotated[int, Field(ge=1, le=10_000)]
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 1e-4
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02


class Defaults(Record):
    """The sampler of a request that names none: the best quality for its cost."""

    steps: PositiveInt
    solver: SolverName
    guidance_scale: NonNegativeFloat


class Artifact(HashedFile):
    """The weights; those of a diffusers folder by its index, with the size and the SHA-256 of all of its files."""

    format: Literal["torchscript", "diffusers"]
    file: Annotated[str, StringConstraints(pattern=r"^(model-[0-9a-f]{8}\.pt|model_index\.json)$")]


class LatentCodes(HashedFile):
    """Latents of training pictures (service.sampling.latent_map)."""

    file: Annotated[str, StringConstraints(pattern=r"^latents-[0-9a-f]{8}\.npz$")]


class Dataset(Record):
    """The training data: `source` says where to find it, `images` is their number."""

    name: Text
    licence: Text
    source: Text
    images: PositiveInt


class Training(Record):
    """How to reproduce this model, and what the training run cost.

    `settings` are the trainer's; `kept_epoch` is the epoch of these weights, None for the last.
    """

    command: Text
    epochs: NonNegativeFloat
    images_seen: PositiveInt
    seconds: NonNegativeFloat
    device: Text
    precision: Text
    seed: Annotated[int, Field(ge=0)]
    parameters: PositiveInt
    losses: dict[str, float]
    ema_decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    kept_epoch: PositiveInt | None = None
    settings: dict[str, JsonValue] = Field(default_factory=dict)


class Score(Record):
    """One measured quality: `value` of `metric` on `samples` pictures against `reference`.

    `floor` is the metric between two sets of real pictures, the value of a perfect model. `sampler` is None for a model
    without steps.
    """

    metric: Text
    value: float
    samples: PositiveInt
    reference: Text
    floor: float | None = None
    sampler: Text | None = None


class Golden(Record):
    """A picture that the weights generated when they were exported; a broken or different version generates another.

    Its noise has `seed`, its class is `class_label`, or it shows `prompt`, without guidance. `steps` and `solver` are
    None for a model without steps. `picture` is uint8 (height, width, channel) in base64.
    """

    seed: Annotated[int, Field(ge=0, lt=1 << 32)]
    class_label: Annotated[int, Field(ge=0)]
    steps: PositiveInt | None
    solver: SolverName | None
    picture: str
    prompt: str | None = None

    @property
    def levels(self) -> bytes:
        """The grey levels of `picture`. Raises ValueError where it is not base64."""
        try:
            return base64.b64decode(self.picture, validate=True)
        except binascii.Error as failure:
            raise ValueError(f"golden.picture is not base64: {failure}") from failure


class Manifest(Record):
    """One exported model.

    Shapes exclude the batch: `image_shape` is (channel, height, width), `latent_shape` is the shape of the solver's
    state and of the input of `decode`. `x0_range` clamps predictions of the clean latent; None: no clamp. `t_max` in
    (0, 1] is where plans start on the noise schedule. `inference_dtype` is the type that the weights compute in; those
    of float32 may be float16 in the file. `text` is of a model with prompts, `pipeline` of a diffusers folder, whose
    manifest has no noise schedule, data set or training.
    """

    schema_version: Literal[1]
    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")]
    family: ManifestFamily
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    latent_shape: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    x0_range: Annotated[tuple[float, float], AfterValidator(_ascending)] | None
    class_names: Annotated[tuple[Text, ...], AfterValidator(_distinct)]
    noise_schedule: NoiseSchedule | None
    t_max: Annotated[float, Field(gt=0, le=1)] | None
    capabilities: Annotated[tuple[Capability, ...], Field(min_length=1), AfterValidator(_distinct)]
    defaults: Defaults | None
    inference_dtype: Literal["float32", "bfloat16", "float16"]
    artifact: Artifact
    latents: LatentCodes | None = None
    dataset: Dataset | None = None
    training: Training | None = None
    pipeline: Pipeline | None = None
    text: TextModel | None = None
    quality: tuple[Score, ...] = ()
    golden: Golden | None = None
    torch_version: Text
    created: Annotated[str, AfterValidator(_iso_date)]

    @model_validator(mode="after")
    def _sampler_belongs_to_diffusion(self) -> Self:
        of_folder = self.family == "diffusers"
        wanted = {"noise_schedule": self.denoises and not of_folder, "t_max": self.denoises and not of_folder}
        wanted |= {"defaults": self.denoises, "pipeline": of_folder}
        wanted |= {"dataset": not of_folder, "training": not of_folder}
        for field, needed in wanted.items():
            if (getattr(self, field) is not None) != needed:
                raise ValueError(f"{field} is {'required' if needed else 'not allowed'} in family {self.family}")
        return self

    @model_validator(mode="after")
    def _default_steps_fit(self) -> Self:
        if self.noise_schedule and self.t_max and self.defaults:
            most = max_steps(self.noise_schedule, self.t_max)
            if self.defaults.steps > most:
                raise ValueError(f"defaults.steps {self.defaults.steps} is more than the {most} up to t_max")
        return self

    @model_validator(mode="after")
    def _text_fits(self) -> Self:
        if self.text is None:
            return self
        if self.family != "ddpm" or self.latent_shape != self.image_shape or self.class_names:
            raise ValueError("text is allowed for diffusion of pictures without classes only")
        hint = self.text.hint_shape
        if hint is not None and hint != (1, *self.image_shape[1:]):
            raise ValueError(f"text.hint_shape {hint} is not one channel of the pictures {self.image_shape}")
        return self

    @model_validator(mode="after")
    def _golden_is_of_this_model(self) -> Self:
        golden = self.golden
        if golden is None:
            return self
        if len(golden.levels) != math.prod(self.image_shape):
            raise ValueError(f"golden.picture has {len(golden.levels)} levels, not {math.prod(self.image_shape)}")
        if golden.class_label > self.null_label:
            raise ValueError(f"golden.class_label {golden.class_label} is above {self.null_label}, no class")
        if golden.prompt is not None and self.text is None:
            raise ValueError("golden.prompt is of a model with prompts")
        if (golden.steps is None, golden.solver is None) != (not self.denoises, not self.denoises):
            raise ValueError(f"golden.steps and golden.solver do not fit family {self.family}")
        return self

    @property
    def made_from(self) -> Dataset:
        """The training data of a model that the trainer exported."""
        assert self.dataset is not None
        return self.dataset

    @property
    def made_by(self) -> Training:
        """The training run of a model that the trainer exported."""
        assert self.training is not None
        return self.training

    @property
    def conditioning(self) -> Conditioning | None:
        """What its pictures are conditioned on; None for a model with classes, or without any."""
        return self.pipeline if self.text is None else conditioning_of(self.text, self.image_shape)

    @property
    def reads_prompts(self) -> bool:
        """Whether its pictures are of a prompt."""
        return self.conditioning is not None and bool(self.conditioning.text)

    @property
    def null_label(self) -> int:
        """The label that means "no class": one past the last class. See ``needs_class``."""
        return len(self.class_names)

    @property
    def needs_class(self) -> bool:
        """Whether there is no "no class": a diffusers folder may have been trained on classes only."""
        return self.pipeline is not None and bool(self.class_names) and not self.pipeline.no_class

    @property
    def version(self) -> str:
        """The first eight characters of the weights' SHA-256."""
        return self.artifact.sha256[:8]

    @property
    def denoises(self) -> bool:
        """Whether a picture takes solver steps; otherwise it is decoded from noise at once."""
        return self.family in ("ddpm", "ldm", "diffusers")

    @property
    def has_sizes(self) -> bool:
        """Whether its pictures can have several sizes."""
        return self.pipeline is not None and self.pipeline.sizes.smallest <= self.pipeline.sizes.largest


def is_model_name(name: str) -> bool:
    """Whether `name` is valid in a manifest."""
    return NAME.fullmatch(name) is not None


def max_steps(schedule: NoiseSchedule, t_max: float) -> int:
    """The most steps of a plan: the schedule's timesteps up to `t_max` in (0, 1]."""
    return round(t_max * schedule.timesteps)


def artifact_file(sha256: str) -> str:
    """The file name of weights with this hash (64 hexadecimal characters)."""
    return f"model-{sha256[:8]}.pt"


def latents_file(sha256: str) -> str:
    """The file name of latents with this hash (64 hexadecimal characters)."""
    return f"latents-{sha256[:8]}.npz"


def manifest_file(version: str) -> str:
    """The file name of the manifest of a replaced version."""
    return f"manifest-{version}.json"


def read_manifest(directory: Path, trust: Trust = ANYONE) -> Manifest:
    """Read and check `directory`/manifest.json, if it is signed as `trust` demands.

    Raises:
        ManifestError: it is missing, over 1 MiB, not JSON, of a newer schema, or invalid.
        SignatureError: `trust` does not accept it.
    """
    return _read(directory / MANIFEST_FILE, trust)


def read_history(directory: Path, trust: Trust = ANYONE) -> list[Manifest]:
    """The valid manifests that `write_manifest` replaced in `directory`, the most recent first."""
    kept = sorted(directory.glob(manifest_file("*")), key=_written_at, reverse=True)
    read = ((path, _read_if_valid(path, trust)) for path in kept)
    return [manifest for path, manifest in read if manifest and path.name == manifest_file(manifest.version)]


def write_manifest(directory: Path, manifest: Manifest, key: SecretKey | None = None) -> None:
    """Replace `directory`/manifest.json atomically; the old one is kept as manifest-<version>.json for a rollback.

    `key` signs it. Without a key it has no signature: that of the old manifest is not of these bytes.
    """
    payload = manifest.model_dump_json(indent=2).encode() + b"\n"
    signature = None if key is None else sign(payload, key, MANIFEST_FILE)
    _keep_other(directory, manifest.version)
    replace_signed(directory / MANIFEST_FILE, payload, signature)


def restore_manifest(directory: Path, version: str) -> None:
    """Make the kept manifest of `version` the manifest again: the same bytes and signature. Raises OSError."""
    payload, signature = read_signed(directory / manifest_file(version))
    _keep_other(directory, version)
    replace_signed(directory / MANIFEST_FILE, payload, signature)


def _keep_other(directory: Path, version: str) -> None:
    """Keep the manifest that one of `version` is about to replace, unless it is of the same version."""
    path = directory / MANIFEST_FILE
    replaced = _read_if_valid(path, ANYONE)
    if replaced is not None and replaced.version != version:
        replace_signed(directory / manifest_file(replaced.version), *read_signed(path))


def _read(path: Path, trust: Trust) -> Manifest:
    try:
        with open_regular_file(path, follow_links=True) as file:
            text = file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as failure:
        raise ManifestError(path, failure.strerror or "cannot be read") from failure
    if len(text) > MAX_MANIFEST_BYTES:
        raise ManifestError(path, f"larger than {MAX_MANIFEST_BYTES} bytes")
    trust.check(path, text)
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as failure:
        raise ManifestError(path, _first_reason(failure)[:MAX_REASON]) from failure


def _read_if_valid(path: Path, trust: Trust) -> Manifest | None:
    try:
        return _read(path, trust)
    except ContractError:
        return None


def _written_at(path: Path) -> int:
    """Modification time in nanoseconds; 0 where it cannot be read."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def _first_reason(failure: ValidationError) -> str:
    # A newer schema explains all other errors.
    error = min(failure.errors(include_url=False), key=lambda error: error["loc"][:1] != ("schema_version",))
    field = ".".join(str(part) for part in error["loc"])
    reason = error["msg"].removeprefix("Value error, ")
    return " ".join(f"{field}: {reason}".removeprefix(": ").split())
