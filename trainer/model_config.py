"""The settings of each family of models."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from service.contract.manifest import NoiseSchedule, SolverName

Family = Literal["autoencoder", "vae", "gan", "ddpm", "ldm", "few-step", "text", "control", "few-step-text"]

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Patch = Annotated[Literal[2, 4], Field(description="side of the patches that images are divided into, in pixels")]


class Strict(BaseModel):
    """An immutable model that rejects unknown fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class AdversarialConfig(Strict):
    """The loss of a discriminator and its gradient penalty."""

    loss: Literal["relativistic", "hinge", "bce", "wasserstein"]
    real_target: Fraction = Field(default=1.0, description="target of bce for real images; below 1: label smoothing")
    gamma: float = Field(default=0.0, ge=0.0, description="weight of the gradient penalty: R1 + R2 or WGAN-GP")
    penalty_every: Positive = Field(default=1, description="steps between penalties; the weight grows accordingly")


class DiscriminatorConfig(AdversarialConfig):
    """A residual discriminator that adds its loss to that of another family."""

    width: Positive
    blocks: Positive = Field(default=1, description="residual blocks at each resolution")
    weight: float = Field(gt=0.0, description="of the adversarial gradient, relative to that of the family's own loss")
    rate: float = Field(default=1.0, gt=0.0, description="learning rate, relative to that of the family's networks")


class BoundConfig(Strict):
    """An evidence lower bound; the networks have ``width`` channels per patch, and twice as many for 2 x 2 patches."""

    width: Positive
    patch: Patch = 2
    blocks: Positive = Field(description="residual blocks at each resolution")
    latent: Positive = Field(description="dimensions of a VAE's code; channels of an autoencoder's")
    beta: float = Field(ge=0.0, description="weight of the KL term")
    kl_warmup: Fraction = Field(description="fraction of the run in which the KL weight rises from 0 to beta")
    free_bits: float = Field(default=0.0, ge=0.0, description="nats of KL in each dimension without a loss")
    discriminator: DiscriminatorConfig | None = Field(default=None, description="of reconstructions or samples")


class AutoencoderConfig(BoundConfig):
    """An autoencoder with latent maps, for reconstruction and latent diffusion; it does not sample from a prior."""

    family: Literal["autoencoder"]


class VaeConfig(BoundConfig):
    """A VAE with latent vectors; its prior is the standard normal or a flow fitted to the codes."""

    family: Literal["vae"]
    prior: Literal["standard", "flow"]
    prior_width: Positive = Field(default=256, description="hidden units in each coupling of the flow")
    prior_layers: Positive = Field(default=8, description="couplings of the flow")


class GanConfig(AdversarialConfig):
    """Generator and discriminator with ``width`` channels per patch, and twice as many for 2 x 2 patches."""

    family: Literal["gan"]
    network: Literal["residual", "dcgan"]
    width: Positive
    patch: Patch = 2
    blocks: Positive = Field(default=1, description="residual blocks at each resolution; not for DCGAN")
    latent: Positive
    critic_steps: Positive = Field(default=1, description="discriminator steps per generator step")
    spectral_norm: bool = Field(default=False, description="for the discriminator (Miyato et al. 2018)")

    @field_validator("patch")
    @classmethod
    def _none_in_dcgan(cls, patch: int, info: ValidationInfo) -> int:
        if patch != 2 and info.data.get("network") == "dcgan":
            raise ValueError("only residual networks have other patches than 2, not dcgan")
        return patch


class TeacherConfig(Strict):
    """The guidance of the network that a run starts from, whose predictions replace the loss on images."""

    guidance_scale: float = Field(gt=1.0, description="1 would be no guidance")
    largest_t: float = Field(default=1.0, gt=0.0, le=1.0, description="no guidance at noisier times")


class DiffusionConfig(Strict):
    """Training of a denoising network, and its default sampler."""

    noise_schedule: NoiseSchedule
    prediction: Literal["epsilon", "v", "velocity", "x_start"] = Field(description="what the network predicts")
    time_density: Literal["uniform", "logit-normal"] = Field(description="distribution of training timesteps")
    time_mean: float = Field(default=0.0, description="of the logit of t, for logit-normal")
    time_deviation: float = Field(default=1.0, gt=0.0, description="of the logit of t, for logit-normal")
    min_snr_gamma: float | None = Field(default=None, gt=0.0, description="bound of the SNR weight; none: no weighting")
    solver: SolverName = Field(default="dpmpp_2m", description="default of the artefact")
    steps: Positive = Field(default=20, description="default of the artefact")


class DdpmConfig(DiffusionConfig):
    """Diffusion of images: a U-Net with ``width`` channels per patch, and twice as many for 2 x 2 patches."""

    family: Literal["ddpm"]
    width: Positive
    patch: Patch = 2
    blocks: Positive
    dropout: Fraction
    teacher: TeacherConfig | None = Field(default=None, description="the network that it starts from; none: images")


class LdmConfig(DiffusionConfig):
    """Diffusion of an autoencoder's codes: ``blocks`` pairs of residual blocks with ``width`` channels."""

    family: Literal["ldm"]
    width: Positive
    blocks: Positive
    dropout: Fraction
    autoencoder: AutoencoderConfig = Field(description="taken from the run that it starts from")
    teacher: TeacherConfig | None = Field(default=None, description="the network that it starts from; none: images")


class TextConfig(DiffusionConfig):
    """Text to image: a U-Net on patches, conditioned by a transformer on words."""

    family: Literal["text"]
    patch: Positive = Field(description="side of a patch in pixels; the U-Net's maps are smaller by it")
    width: Positive = Field(description="channels at the resolution of patches")
    wide: Positive = Field(description="channels at half of that resolution, with attention; a multiple of 32")
    blocks: Positive = Field(description="residual blocks at each resolution")
    vocabulary: Positive = Field(description="number of words, the most frequent of the captions")
    tokens: Positive = Field(description="largest number of tokens of a caption, the rest is cut off")
    context: Positive = Field(description="width of the text encoder; a multiple of 32")
    text_layers: Positive = Field(description="layers of the text encoder")
    dropout: Fraction = Field(description="in the text encoder")
    guidance_scale: float = Field(default=3.0, ge=0.0, description="default of the artefact")


class ControlConfig(Strict):
    """Control of the ``base`` by drawings."""

    family: Literal["control"]
    base: TextConfig = Field(description="that of the run it starts from")
    moved: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="share of images that are moved: only drawings say where they are",
    )


class FewStepConfig(Strict):
    """Distribution matching of images of few steps with those of the diffusion model ``base``."""

    family: Literal["few-step"]
    base: DdpmConfig = Field(description="taken from the run that it starts from, except the sampler")
    score_rate: float = Field(gt=0.0, description="learning rate of the scores, relative to that of the generator")
    score_updates: Positive = Field(default=1, description="updates of the scores for each of the generator")

    @field_validator("base")
    @classmethod
    def _without_guidance(cls, base: DdpmConfig) -> DdpmConfig:
        if base.teacher is not None:
            raise ValueError("teacher is not for few-step, whose teacher is the model that it starts from")
        return base


class FewStepTextConfig(Strict):
    """Consistency tuning of the text-to-image ``base``, with its guidance included."""

    family: Literal["few-step-text"]
    base: TextConfig = Field(description="that of the run it starts from, with the sampler of the tuned model")
    guidance: float = Field(ge=1.0, description="guidance scale of the teacher, which the student learns to include")
    teacher_steps: Positive = Field(description="steps of the teacher's path, which the student learns to skip")
    huber: float = Field(gt=0.0, description="distance of images below which the loss is quadratic")


#: Families that start from another run: the field that takes that run's model config, and the families of such runs.
#: Runs with guidance start from a run of their own family instead.
STARTS: dict[str, tuple[str, tuple[Family, ...]]] = {
    "ldm": ("autoencoder", ("autoencoder",)),
    "few-step": ("base", ("ddpm",)),
    "control": ("base", ("text",)),
    "few-step-text": ("base", ("text",)),
}

ModelConfig = (
    AutoencoderConfig
    | VaeConfig
    | GanConfig
    | DdpmConfig
    | LdmConfig
    | FewStepConfig
    | TextConfig
    | ControlConfig
    | FewStepTextConfig
)
