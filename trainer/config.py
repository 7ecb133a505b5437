"""What a run is: typed, complete, stored in its checkpoint; defaults come from presets/<name>.toml."""

import shlex
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.manifest import NoiseSchedule, SolverName

#: The fields that the command line can replace, each by an option of its name, and where in the config they are.
OVERRIDES: dict[str, tuple[str, ...]] = {
    "dataset": ("dataset",),
    "image_size": ("image_size",),
    "channels": ("channels",),
    "epochs": ("epochs",),
    "steps": ("steps",),
    "batch_size": ("batch_size",),
    "learning_rate": ("optimizer", "learning_rate"),
    "width": ("model", "width"),
    "seed": ("seed",),
    "precision": ("precision",),
    "grid_every": ("grid_every",),
}

#: Where the shipped evaluator lies, and where `evaluator` writes one.
EVALUATOR_FOLDER = Path("weights/evaluator")

Precision = Literal["fp32", "bf16"]
Family = Literal["autoencoder", "vae", "gan", "ddpm", "ldm", "few-step"]
DatasetName = Literal["fashion-mnist", "mnist", "cifar10", "celeba", "folder"]

#: Channels and pixels of each data set's pictures; a folder's may be given others.
SHAPES: dict[str, tuple[int, int]] = {
    "fashion-mnist": (1, 28),
    "mnist": (1, 28),
    "cifar10": (3, 32),
    "celeba": (3, 64),
    "folder": (1, 28),
}

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """A record that refuses unknown fields and never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BoundConfig(Strict):
    """An evidence lower bound on networks with ``width`` channels at half, twice that at quarter resolution."""

    width: Positive
    blocks: Positive = Field(description="residual blocks at each resolution")
    latent: Positive = Field(description="dimensions of a VAE's code; channels of an autoencoder's")
    beta: float = Field(ge=0.0, description="weight of the KL term")
    kl_warmup: Fraction = Field(description="share of the run over which the KL weight rises from 0 to beta")
    free_bits: float = Field(default=0.0, ge=0.0, description="nats that every dimension of the code may cost for free")


class AutoencoderConfig(BoundConfig):
    """Codes that are maps, for reconstruction and for latent diffusion; nothing is drawn from their prior."""

    family: Literal["autoencoder"]


class VaeConfig(BoundConfig):
    """Codes that are vectors, drawn from the standard normal or from a flow that learns where they lie."""

    family: Literal["vae"]
    prior: Literal["standard", "flow"]
    prior_width: Positive = Field(default=256, description="hidden units of a coupling of the flow")
    prior_layers: Positive = Field(default=8, description="couplings of the flow")


class GanConfig(Strict):
    """Generator and discriminator, ``width`` channels at half and twice that at quarter resolution in both."""

    family: Literal["gan"]
    network: Literal["residual", "dcgan"]
    width: Positive
    blocks: Positive = Field(default=1, description="residual blocks at each resolution; a DCGAN has none")
    latent: Positive
    loss: Literal["relativistic", "hinge", "bce", "wasserstein"]
    real_target: Fraction = Field(default=1.0, description="bce's target for real images: label smoothing below 1")
    gamma: float = Field(default=0.0, ge=0.0, description="weight of the gradient penalty: R1 + R2, or WGAN-GP's")
    penalty_every: Positive = Field(default=1, description="steps between penalties, which then weigh as much more")
    critic_steps: Positive = Field(default=1, description="discriminator steps a generator step")
    spectral_norm: bool = Field(default=False, description="bound the discriminator's layers (Miyato et al. 2018)")


class DiffusionConfig(Strict):
    """How a network learns to denoise, and how it is sampled unless a request says otherwise."""

    noise_schedule: NoiseSchedule
    prediction: Literal["epsilon", "v", "velocity"] = Field(description="what the network's output is")
    time_density: Literal["uniform", "logit-normal"] = Field(description="how training draws its steps")
    time_mean: float = Field(default=0.0, description="of the logit of t where that is normal")
    time_deviation: float = Field(default=1.0, gt=0.0, description="of the logit of t where that is normal")
    min_snr_gamma: float | None = Field(default=None, gt=0.0, description="bound of the loss weight; none, no weights")
    solver: SolverName = Field(default="dpmpp_2m", description="the artefact's default")
    steps: Positive = Field(default=20, description="the artefact's default")


class DdpmConfig(DiffusionConfig):
    """Diffusion of pictures: a U-Net of ``width`` channels at half and twice that at quarter resolution."""

    family: Literal["ddpm"]
    width: Positive
    blocks: Positive
    dropout: Fraction


class LdmConfig(DiffusionConfig):
    """Diffusion of an autoencoder's codes: ``blocks`` pairs of residual blocks of ``width`` channels."""

    family: Literal["ldm"]
    width: Positive
    blocks: Positive
    dropout: Fraction
    autoencoder: AutoencoderConfig = Field(description="that of the run it starts from")


class FewStepConfig(Strict):
    """Consistency tuning of the ``base`` that it starts from."""

    family: Literal["few-step"]
    base: DdpmConfig = Field(description="that of the run it starts from, with the sampler of the tuned model")
    stages: Positive = Field(description="gaps between the two steps, each half the one before")
    huber: float = Field(gt=0.0, description="distance of pictures below which the loss is quadratic")


#: What a family begins with: the field of its config that describes it, and the family of the run it is taken from.
STARTS: dict[str, tuple[str, Family]] = {"ldm": ("autoencoder", "autoencoder"), "few-step": ("base", "ddpm")}

ModelConfig = AutoencoderConfig | VaeConfig | GanConfig | DdpmConfig | LdmConfig | FewStepConfig


class OptimizerConfig(Strict):
    """Adam(W) with linear warm-up and cosine decay to a hundredth."""

    learning_rate: float = Field(gt=0.0)
    betas: tuple[Fraction, Fraction]
    weight_decay: float = Field(ge=0.0)
    warmup: Fraction = Field(description="share of the run over which the learning rate rises")
    decay: bool = Field(description="fall along a cosine after the warm-up; GANs of 2016 do not")
    clip: float | None = Field(default=None, gt=0.0, description="largest gradient norm")


class Extension(Strict):
    """A run that stood at step ``at`` of ``planned`` was made longer; its schedules follow the longer plan since."""

    at: int = Field(ge=0)
    planned: Positive


class RunConfig(Strict):
    """Everything that decides a run's numbers."""

    preset: str = Field(description="the name in trainer/presets that it began with, or that of one's own file, *.toml")
    start: str | None = Field(default=None, description="folder of the run whose network it began with")
    dataset: DatasetName
    image_size: Literal[28, 32, 64] = Field(description="height and width, in pixels; left out, the data set's")
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB; left out, the data set's")
    epochs: Positive
    steps: Positive | None = Field(default=None, description="length of the run in training steps, in place of epochs")
    extended: tuple[Extension, ...] = Field(default=(), description="when the run was made longer")
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: Precision = Field(default="fp32", description="arithmetic of forward passes in training")
    label_dropout: Fraction = Field(description="share of labels replaced by 'no class' in training")
    ema_decay: float = Field(ge=0.0, lt=1.0, description="per step, once enough steps were seen (see loop.ema_average)")
    grid_every: Positive = Field(description="epochs between sample grids")
    optimizer: OptimizerConfig
    model: ModelConfig = Field(discriminator="family")

    @model_validator(mode="before")
    @classmethod
    def _shape_of_the_data(cls, values: Any) -> Any:  # noqa: ANN401  (whatever was given)
        if not isinstance(values, dict) or values.get("dataset") not in SHAPES:
            return values
        channels, image_size = SHAPES[values["dataset"]]
        return {"channels": channels, "image_size": image_size} | values

    @model_validator(mode="after")
    def _published_shape(self) -> Self:
        channels, size = SHAPES[self.dataset]
        if self.dataset != "folder" and (self.channels, self.image_size) != (channels, size):
            kind = "grey" if channels == 1 else "RGB"
            raise ValueError(f"{self.dataset} is {kind} of {size} pixels: leave --image-size and --channels out")
        return self

    @property
    def family(self) -> Family:
        """Which generator this run trains."""
        return self.model.family

    def total_steps(self, images: int) -> int:
        """The length of the run, in steps, on so many training images."""
        return self.steps or self.epochs * (images // self.batch_size)

    def value(self, override: str) -> Any:  # noqa: ANN401  (any field)
        """What one of OVERRIDES is; None where the model has no such field."""
        found: Any = self
        for name in OVERRIDES[override]:
            found = getattr(found, name, None)
        return found


def presets() -> list[str]:
    """The names of the files in trainer/presets."""
    folder = resources.files("trainer").joinpath("presets")
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def is_own(preset: str) -> bool:
    """Whether ``preset`` is a file of the user's own and no name of trainer/presets."""
    return preset.endswith(".toml")


def preset_values(preset: str) -> dict[str, Any]:
    """The fields that a preset sets: a name of ``presets`` or the path of a file, *.toml.

    Raises ValueError when the file cannot be read or is not TOML.
    """
    if not is_own(preset):
        return tomllib.loads(resources.files("trainer").joinpath("presets", f"{preset}.toml").read_text())
    try:
        return tomllib.loads(Path(preset).read_text())
    except OSError as failure:
        raise ValueError(f"{preset}: {failure.strerror}") from failure
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise ValueError(f"{preset} is not TOML: {failure}") from failure


def load_preset(name: str, begun: RunConfig | None = None, **overrides: Any) -> RunConfig:  # noqa: ANN401  (any field)
    """The preset of this name, or in this file, with some fields replaced; None leaves the preset's value.

    ``overrides`` are of OVERRIDES, or fields of the config. Families that begin with the network of another run take
    that network's description from ``begun``. Raises ValueError when it is missing, of the wrong family, or not
    wanted, and pydantic's ValidationError for a field that is missing, unknown or out of range.
    """
    values = preset_values(name) | {"preset": Path(name).name}
    for key, value in overrides.items():
        if value is not None:
            _put(values, OVERRIDES.get(key, (key,)), value)
    if overrides.get("epochs") is not None and overrides.get("steps") is None:
        values.pop("steps", None)  # of one's own preset: what the command line says of the length replaces it
    _describe_start(values, begun)
    return RunConfig.model_validate(values)


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    *parents, last = path
    for name in parents:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            return  # validation reports a preset whose section is not a table
    values[last] = value


def _describe_start(values: dict[str, Any], begun: RunConfig | None) -> None:
    """Put the description of the network that a run begins with into its ``values``."""
    model = values.get("model")
    model = model if isinstance(model, dict) else {}
    field, family = STARTS.get(str(model.get("family")), (None, None))
    if family != (begun.family if begun else None):
        raise ValueError(
            f"--from: {values['preset']} starts from {f'a run of family {family}' if family else 'nothing'}"
        )
    if field and begun:
        model[field] = begun.model.model_dump() | model.get(field, {})


def train_command(config: RunConfig) -> str:
    """The command that begins the same run: its seed, its precision, and whatever else differs from the preset.

    The precision is always there, because its default depends on the machine. Where somebody keeps their own pictures
    is not told: the command has PATH in its place.
    """
    options = ["--from", config.start] if config.start else []
    for name, value in changes(config).items():
        shown = dataset_option(config.dataset) if name == "dataset" else value
        options += [f"--{name.replace('_', '-')}", str(shown)]
    return f"python -m trainer train {shlex.join([config.preset, *options])}"


def changes(config: RunConfig) -> dict[str, Any]:
    """The overrides under which ``config.preset`` gives ``config`` on any machine: seed, precision, what differs."""
    always = ("seed", "precision")
    values = {name: config.value(name) for name in (*always, *(name for name in OVERRIDES if name not in always))}
    return {
        name: value
        for name, value in values.items()
        if name in always or (value is not None and value != _default(config, name))
    }


def _default(config: RunConfig, name: str) -> object:
    """What an override is unless given: the data set's or the preset's value; none is known of one's own preset."""
    if name == "epochs" and config.steps:
        return config.epochs  # of no effect: not to be told
    if name in ("channels", "image_size"):
        channels, image_size = SHAPES[config.dataset]
        return channels if name == "channels" else image_size
    found: Any = {} if is_own(config.preset) else preset_values(config.preset)
    for part in OVERRIDES[name]:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def dataset_option(dataset: DatasetName) -> str:
    """What --dataset is given for ``dataset``, PATH standing for the folder of somebody's own pictures."""
    return "folder:PATH" if dataset == "folder" else dataset
