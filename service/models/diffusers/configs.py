"""What is read of a diffusers folder's configurations, and which values can be served."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveInt,
    StringConstraints,
    ValidationError,
    model_validator,
)

from service.contract.manifest import NAME
from service.models.diffusers.files import FolderError, JsonFile

#: Upper limits keep a configuration from building networks that no memory holds.
Channels = Annotated[int, Field(ge=1, le=1 << 16)]
Side = Annotated[int, Field(ge=1, le=4096)]
Layers = Annotated[int, Field(ge=1, le=128)]
Blocks = Annotated[tuple[Channels, ...], Field(min_length=1, max_length=12)]
BlockTypes = Annotated[tuple[str, ...], Field(max_length=12)]
PerBlock = Layers | Annotated[tuple[Layers, ...], Field(max_length=12)]
Size = Side | tuple[Side, Side]
Line = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Config(BaseModel):
    # Fields that are not named here belong to the library, which writes -Infinity into some; ours are numbers.
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False, populate_by_name=True)


class _Network(_Config):
    """A network of the diffusers library."""

    class_name: Annotated[str, Field(alias="_class_name")]
    block_out_channels: Blocks
    down_block_types: BlockTypes = ()
    up_block_types: BlockTypes = ()
    layers_per_block: PerBlock = 2
    transformer_layers_per_block: PerBlock = 1

    @property
    def factor(self) -> int:
        """How many times smaller each side is after the last block."""
        return 1 << (len(self.block_out_channels) - 1)


class _UNet(_Network):
    in_channels: Channels
    out_channels: Channels
    sample_size: Size
    diffusers_version: Annotated[str, Field(alias="_diffusers_version")] = "0.9.0"
    class_embed_type: None = None
    time_embedding_type: Literal["positional"] = "positional"

    @property
    def height_width(self) -> tuple[int, int]:
        """The size that the UNet was trained at, in its own pixels.

        Folders from before 0.9.0 say 32 where they mean 64, and the pipelines correct them.
        """
        if isinstance(self.sample_size, tuple):
            return self.sample_size
        outdated = self.class_name == "UNet2DConditionModel" and _before_0_9(self.diffusers_version)
        side = max(self.sample_size, 64) if outdated else self.sample_size
        return side, side


class PixelUNet(_UNet):
    """A UNet2DModel: unconditional, or with `num_class_embeds` classes."""

    num_class_embeds: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _keeps_channels(self) -> Self:
        if self.in_channels != self.out_channels:
            raise ValueError(f"out_channels {self.out_channels} is not in_channels {self.in_channels}")
        return self


class TextUNet(_UNet):
    """A UNet2DConditionModel with one text context; `time_cond_proj_dim` is the width of a guidance embedding."""

    cross_attention_dim: Channels
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Channels | None = None
    projection_class_embeddings_input_dim: Channels | None = None
    time_cond_proj_dim: Channels | None = None
    num_class_embeds: None = None
    encoder_hid_dim_type: None = None


class Vae(_Network):
    """An AutoencoderKL: a latent is `(z - shift) * scaling_factor`, or is standardised per channel."""

    latent_channels: Channels
    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    sample_size: Side = 512
    scaling_factor: Annotated[float, Field(gt=0)] = 0.18215
    shift_factor: float | None = None
    latents_mean: Annotated[tuple[float, ...], Field(max_length=64)] | None = None
    latents_std: Annotated[tuple[float, ...], Field(max_length=64)] | None = None
    force_upcast: bool = True


class ControlNet(_Network):
    """A ControlNetModel: one picture of three channels guides the UNet."""

    in_channels: Channels
    cross_attention_dim: Channels
    conditioning_channels: Literal[3] = 3
    global_pool_conditions: Literal[False] = False
    addition_embed_type: Literal["text_time"] | None = None
    class_embed_type: None = None
    num_class_embeds: None = None
    encoder_hid_dim_type: None = None


class TextModel(_Config):
    """A CLIPTextModel, or one with a projection of `projection_dim` numbers for the pooled prompt."""

    architectures: Annotated[tuple[str, ...], Field(max_length=1)] = ()
    model_type: Literal["clip_text_model"]
    hidden_size: Channels
    intermediate_size: Channels = 2048
    num_hidden_layers: Layers
    projection_dim: Channels = 512
    max_position_embeddings: Annotated[int, Field(ge=3, le=4096)] = 77
    vocab_size: Annotated[int, Field(ge=3, le=1 << 20)] = 49408
    use_attention_mask: Literal[False] = False


class Scheduler(_Config):
    """A scheduler; only its configuration is used."""

    class_name: Annotated[str, Field(alias="_class_name")]
    num_train_timesteps: Annotated[int, Field(ge=1, le=10_000)] = 1000
    prediction_type: Literal["epsilon", "v_prediction", "sample"] = "epsilon"
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    trained_betas: Annotated[tuple[float, ...], Field(max_length=10_000)] | None = None
    timestep_spacing: Literal["leading", "linspace", "trailing"] | None = None


class Defaults(_Config):
    """What a request gets that names nothing; sizes in pixels."""

    model_config = ConfigDict(extra="forbid")

    steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: NonNegativeFloat | None = None
    width: Side | None = None
    height: Side | None = None
    solver: Literal["ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral", "lcm"] | None = None


class Options(_Config):
    """An optional genserve.json. Of `class_names`, one more class of the UNet than names means "no class"."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(pattern=f"^{NAME.pattern}$")] | None = None
    licence: Line | None = None
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    class_names: Annotated[tuple[Line, ...], Field(max_length=100_000)] = ()
    max_side: PositiveInt | None = None
    defaults: Defaults = Defaults()


C = TypeVar("C", bound=_Config)


def parse(kind: type[C], file: JsonFile) -> C:
    """The fields of `file` that are used. Raises FolderError naming the first field that cannot be served."""
    try:
        return kind.model_validate_json(file.text)
    except ValidationError as failure:
        error: Any = failure.errors(include_url=False)[0]
        field = ".".join(str(part) for part in error["loc"] if not str(part).startswith(("function", "constrained")))
        reason = error["msg"].removeprefix("Value error, ")
        raise FolderError(file.path, f"{field}: {reason}".removeprefix(": ")) from failure


def _before_0_9(version: str) -> bool:
    parts = version.split(".")
    return parts[0] == "0" and len(parts) > 1 and parts[1].isdecimal() and int(parts[1]) < 9
