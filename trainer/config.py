"""What a run is: typed, complete, stored in its checkpoint; defaults come from presets/<family>.toml."""

import tomllib
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.manifest import NoiseSchedule

#: The fields that the command line can replace, each by an option of its name.
OVERRIDES = ("dataset", "image_size", "channels", "epochs", "batch_size", "seed", "precision", "grid_every")

Family = Literal["vae", "gan", "ddpm"]
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


class VaeConfig(Strict):
    """Convolutional VAE: ``width`` channels at half resolution, ``latent`` dimensions, ELBO with ``beta``."""

    family: Literal["vae"]
    width: Positive
    latent: Positive
    beta: float = Field(ge=0.0, description="weight of the KL term")
    kl_warmup: Fraction = Field(description="share of the run over which the KL weight rises from 0 to beta")


class GanConfig(Strict):
    """DCGAN: ``width`` channels at half resolution in both players."""

    family: Literal["gan"]
    width: Positive
    latent: Positive
    real_target: Fraction = Field(description="target for real images: one-sided label smoothing below 1")


class DdpmConfig(Strict):
    """DDPM: a U-Net of ``width`` channels at half and twice that at quarter resolution."""

    family: Literal["ddpm"]
    width: Positive
    blocks: Positive
    dropout: Fraction
    noise_schedule: NoiseSchedule


class OptimizerConfig(Strict):
    """Adam(W) with linear warm-up and cosine decay to a hundredth."""

    learning_rate: float = Field(gt=0.0)
    betas: tuple[Fraction, Fraction]
    weight_decay: float = Field(ge=0.0)
    warmup: Fraction = Field(description="share of the run over which the learning rate rises")
    decay: bool = Field(description="fall along a cosine after the warm-up; GANs of 2016 do not")
    clip: float | None = Field(default=None, gt=0.0, description="largest gradient norm")


class RunConfig(Strict):
    """Everything that decides a run's numbers."""

    dataset: DatasetName
    image_size: Literal[28, 32, 64] = Field(description="height and width, in pixels; left out, the data set's")
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB; left out, the data set's")
    epochs: Positive
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: Literal["fp32", "bf16"]
    label_dropout: Fraction = Field(description="share of labels replaced by 'no class' in training")
    ema_decay: Fraction = Field(description="per step, once enough steps were seen (see loop.ema_average)")
    grid_every: Positive = Field(description="epochs between sample grids")
    optimizer: OptimizerConfig
    model: VaeConfig | GanConfig | DdpmConfig = Field(discriminator="family")

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


def load_preset(family: Family, **overrides: Any) -> RunConfig:  # noqa: ANN401  (values of any field)
    """The preset of a family with some fields replaced; None leaves the preset's value."""
    text = resources.files("trainer").joinpath("presets", f"{family}.toml").read_text()
    values = tomllib.loads(text)
    values.update({key: value for key, value in overrides.items() if value is not None})
    return RunConfig.model_validate(values)


def train_command(config: RunConfig) -> str:
    """The command that begins the same run: its seed, and whatever else differs from the preset on the same data.

    Where somebody keeps their own pictures is not told: the command has PATH in its place.
    """
    preset, on_this_data = load_preset(config.family), load_preset(config.family, dataset=config.dataset)
    options = [f"--seed {config.seed}"]
    if config.dataset != preset.dataset:
        options.append(f"--dataset {config.dataset}{':PATH' if config.dataset == 'folder' else ''}")
    for name in OVERRIDES:
        if name not in ("seed", "dataset") and getattr(config, name) != getattr(on_this_data, name):
            options.append(f"--{name.replace('_', '-')} {getattr(config, name)}")
    return " ".join(["python -m trainer train", config.family, *options])
