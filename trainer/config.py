"""What a run is: typed, complete, stored in its checkpoint; defaults come from presets/<family>.toml."""

import tomllib
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from service.contract.manifest import NoiseSchedule

#: The fields that the command line can replace, each by an option of its name.
OVERRIDES = ("dataset", "image_size", "channels", "epochs", "batch_size", "seed", "precision", "grid_every")

Family = Literal["vae", "gan", "ddpm"]
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

    dataset: Literal["fashion-mnist", "folder"]
    image_size: Literal[28, 32, 64] = Field(default=28, description="height and width, in pixels")
    channels: Literal[1, 3] = Field(default=1, description="1 for grey, 3 for RGB")
    epochs: Positive
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: Literal["fp32", "bf16"]
    label_dropout: Fraction = Field(description="share of labels replaced by 'no class' in training")
    ema_decay: Fraction = Field(description="per step, once enough steps were seen (see loop.ema_average)")
    grid_every: Positive = Field(description="epochs between sample grids")
    optimizer: OptimizerConfig
    model: VaeConfig | GanConfig | DdpmConfig = Field(discriminator="family")

    @model_validator(mode="after")
    def _published_size(self) -> Self:
        if self.dataset == "fashion-mnist" and (self.channels, self.image_size) != (1, 28):
            raise ValueError("fashion-mnist is grey pictures of 28 pixels: leave --image-size and --channels out")
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
    """The command that begins the same run: its seed, and whatever else differs from the preset."""
    preset = load_preset(config.family)
    names = [
        "seed",
        *(name for name in OVERRIDES if name != "seed" and getattr(config, name) != getattr(preset, name)),
    ]
    options = [f"--{name.replace('_', '-')} {getattr(config, name)}" for name in names]
    return " ".join(["python -m trainer train", config.family, *options])
