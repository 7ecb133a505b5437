"""The typed and complete config of a run, stored in its checkpoint; defaults come from presets/<name>.toml."""

import shlex
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from trainer.model_config import (
    STARTS,
    AutoencoderConfig,
    ControlConfig,
    DdpmConfig,
    Family,
    FewStepTextConfig,
    Fraction,
    LdmConfig,
    ModelConfig,
    Positive,
    Strict,
    TextConfig,
)

#: Fields with a command-line option of the same name, and their paths in the config.
OVERRIDES: dict[str, tuple[str, ...]] = {
    "dataset": ("dataset",),
    "image_size": ("image_size",),
    "channels": ("channels",),
    "epochs": ("epochs",),
    "steps": ("steps",),
    "batch_size": ("batch_size",),
    "learning_rate": ("optimizer", "learning_rate"),
    "width": ("model", "width"),
    "patch": ("model", "patch"),
    "seed": ("seed",),
    "precision": ("precision",),
    "grid_every": ("grid_every",),
}

#: Where the shipped evaluator lies, and where `evaluator` writes one.
EVALUATOR_FOLDER = Path("weights/evaluator")
#: The evaluator, from another seed, that selects weights in training: published scores must not be of what they chose.
SELECTION_FOLDER = Path("weights/selection-evaluator")

Precision = Literal["fp32", "bf16"]
DatasetName = Literal["fashion-mnist", "mnist", "cifar10", "celeba", "emoji", "folder"]

#: Channels and size in pixels of each data set's images; for a folder these are defaults.
SHAPES: dict[str, tuple[int, int]] = {
    "fashion-mnist": (1, 28),
    "mnist": (1, 28),
    "cifar10": (3, 32),
    "celeba": (3, 64),
    "emoji": (3, 64),
    "folder": (1, 28),
}

#: Height from which only the latent family takes images: the others would compute at a quarter of it.
LARGE = 96

#: Families that learn guidance from a finished run of their own.
GUIDED = ("ddpm", "ldm")

#: Fields of a model that its weights depend on.
NETWORK = ("width", "wide", "blocks", "patch", "latent", "vocabulary", "tokens", "context", "text_layers", "prediction")

#: Data sets with captions; a folder may have them.
CAPTIONED: tuple[DatasetName, ...] = ("emoji", "folder")


class OptimizerConfig(Strict):
    """Adam(W) with linear warm-up and cosine decay to 1 % of the learning rate."""

    learning_rate: float = Field(gt=0.0)
    betas: tuple[Fraction, Fraction]
    weight_decay: float = Field(ge=0.0)
    warmup: Fraction = Field(description="fraction of the run in which the learning rate rises")
    decay: bool = Field(description="cosine decay after the warm-up")
    clip: float | None = Field(default=None, gt=0.0, description="largest gradient norm")


class Networks(Strict):
    """The table of a preset with the fields of its model that differ for images of other sizes, in pixels."""

    network_by_size: dict[Annotated[str, Field(pattern="^(28|32|64|96|128)$")], dict[str, Any]]


class Extension(Strict):
    """The run was extended or shortened at step ``at`` of ``planned``; its schedules follow the new plan from there."""

    at: int = Field(ge=0)
    planned: Positive


class RunConfig(Strict):
    """Everything that determines the results of a run."""

    preset: str = Field(description="name in trainer/presets, or of the user's own file, *.toml")
    start: str | None = Field(default=None, description="folder of the run or model that it started from")
    dataset: DatasetName
    image_size: Literal[28, 32, 64, 96, 128] = Field(description="height and width in pixels; default: the data set's")
    channels: Literal[1, 3] = Field(description="1 for grey, 3 for RGB; default: the data set's")
    epochs: Positive
    steps: Positive | None = Field(default=None, description="length in training steps; overrides epochs")
    extended: tuple[Extension, ...] = Field(default=(), description="changes of its length")
    batch_size: Positive
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    precision: Precision = Field(default="fp32", description="precision of forward passes in training")
    label_dropout: Fraction = Field(description="fraction of labels replaced by 'no class' in training")
    ema_decay: float = Field(ge=0.0, lt=1.0, description="per step, reached after a warm-up (see schedule.ema_average)")
    grid_every: Positive = Field(description="epochs between sample grids")
    optimizer: OptimizerConfig
    model: ModelConfig = Field(discriminator="family")

    @model_validator(mode="before")
    @classmethod
    def _shape_of_the_data(cls, values: Any) -> Any:  # noqa: ANN401  (not validated yet)
        if not isinstance(values, dict) or values.get("dataset") not in SHAPES:
            return values
        channels, image_size = SHAPES[values["dataset"]]
        return {"channels": channels, "image_size": image_size} | values

    @model_validator(mode="after")
    def _published_shape(self) -> Self:
        channels, size = SHAPES[self.dataset]
        if self.dataset != "folder" and (self.channels, self.image_size) != (channels, size):
            kind = "grey" if channels == 1 else "RGB"
            raise ValueError(f"{self.dataset} has {kind} images of {size} pixels: omit --image-size and --channels")
        return self

    @model_validator(mode="after")
    def _large_images_as_codes(self) -> Self:
        if self.image_size >= LARGE and not isinstance(self.model, AutoencoderConfig | LdmConfig):
            raise ValueError(
                f"--image-size {self.image_size}: only for autoencoder and ldm; {self.preset} takes 28, 32 or 64"
            )
        return self

    @model_validator(mode="after")
    def _captions_for_text(self) -> Self:
        if self.captioned and self.dataset not in CAPTIONED:
            raise ValueError(f"{self.preset} needs captioned images: --dataset {', '.join(CAPTIONED)}:PATH")
        return self

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        model = getattr(self.model, "base", self.model)
        patch = getattr(getattr(model, "autoencoder", model), "patch", 2)
        if self.image_size % (2 * patch):
            raise ValueError(f"--image-size {self.image_size}: {self.preset} takes a multiple of {2 * patch}")
        return self

    @property
    def captioned(self) -> bool:
        """Whether the model is trained on captions."""
        return isinstance(self.model, TextConfig | ControlConfig | FewStepTextConfig)

    @property
    def guided(self) -> bool:
        """Whether the network learns from its guided predecessor, in place of the images."""
        return isinstance(self.model, DdpmConfig | LdmConfig) and self.model.teacher is not None

    @property
    def family(self) -> Family:
        """The family of the model."""
        return self.model.family

    def total_steps(self, images: int) -> int:
        """The length of the run in steps, with ``images`` training images."""
        return self.steps or self.epochs * (images // self.batch_size)

    def value(self, override: str) -> Any:  # noqa: ANN401  (any field)
        """The value of a field in OVERRIDES; None when the model has no such field."""
        found: Any = self
        for name in OVERRIDES[override]:
            found = getattr(found, name, None)
        return found


def presets() -> list[str]:
    """The names of the presets in trainer/presets."""
    folder = resources.files("trainer").joinpath("presets")
    return sorted(path.name.removesuffix(".toml") for path in folder.iterdir() if path.name.endswith(".toml"))


def is_own(preset: str) -> bool:
    """Whether ``preset`` is the user's own file, not a name in trainer/presets."""
    return preset.endswith(".toml")


def preset_values(preset: str) -> dict[str, Any]:
    """The fields that ``preset``, a name or the path of a .toml file, sets.

    Raises ValueError when the file cannot be read or is not TOML.
    """
    if not is_own(preset):
        return tomllib.loads(resources.files("trainer").joinpath("presets", f"{preset}.toml").read_text())
    try:
        return tomllib.loads(Path(preset).read_text())
    except OSError as failure:
        raise ValueError(f"{preset}: {failure.strerror}") from failure
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as failure:
        raise ValueError(f"{preset} is not valid TOML: {failure}") from failure


def load_preset(name: str, base: RunConfig | None = None, **overrides: Any) -> RunConfig:  # noqa: ANN401  (any field)
    """The preset ``name``, or the file with that path, with ``overrides``; None keeps the preset's value.

    ``overrides`` are names in OVERRIDES or fields of the config. ``base`` is the config of the run that a family in
    STARTS starts from: its network is taken over. Raises ValueError when ``base`` is missing, not allowed or of the
    wrong family; pydantic's ValidationError for a field that is missing, unknown or out of range.
    """
    given = {key: value for key, value in overrides.items() if value is not None}
    values = preset_values(name) | {"preset": Path(name).name}
    _fit_network(values, values | given)
    for key, value in given.items():
        _put(values, OVERRIDES.get(key, (key,)), value)
    if "epochs" in given and "steps" not in given:
        values.pop("steps", None)  # --epochs overrides the steps of the user's own preset
    _take_base(values, base)
    return RunConfig.model_validate(values)


def _put(values: dict[str, Any], path: tuple[str, ...], value: object) -> None:
    *parents, last = path
    for name in parents:
        values = values.setdefault(name, {})
        if not isinstance(values, dict):
            return  # validation rejects a section that is not a table
    values[last] = value


def _fit_network(values: dict[str, Any], data: dict[str, Any]) -> None:
    """Fit the model in a preset's ``values`` to the images' size, which ``data`` or its data set has."""
    networks = Networks(network_by_size=values.pop("network_by_size", {})).network_by_size
    _, usual = SHAPES.get(data.get("dataset", ""), (0, 0))
    network = networks.get(str(data.get("image_size", usual)), {})
    for name, value in network.items():
        _put(values, ("model", name), value)


def _take_base(values: dict[str, Any], base: RunConfig | None) -> None:
    """Copy the model config of ``base`` into the preset's ``values``: into a field, or, for guidance, all of it."""
    model = values.get("model")
    model = model if isinstance(model, dict) else {}
    family = str(model.get("family"))
    guided = family in GUIDED and model.get("teacher") is not None
    field, families = ("", (family,)) if guided else STARTS.get(family, ("", ()))
    if (base.family if base else None) not in (families or (None,)):
        needed = f"needs a run of family {' or '.join(families)} to start from"
        raise ValueError(f"--from: {values['preset']} {needed if families else 'does not start from another run'}")
    if base and guided:
        values["model"] = _joined(_unguided(base, values["preset"]), model)
    elif base:
        taken = base.model.model_dump()
        taken.pop("teacher", None)  # its network has learned from it
        model[field] = _joined(taken, model.get(field, {}))


def _joined(taken: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """``taken`` with the fields that the preset sets itself, which may not be those of the network."""
    for name in NETWORK:
        if name in taken and own.get(name, taken[name]) != taken[name]:
            raise ValueError(f"{name} is {taken[name]} in the model that --from names, so it cannot be {own[name]}")
    return taken | own


def _unguided(base: RunConfig, preset: str) -> dict[str, Any]:
    """The model config of ``base``. Raises ValueError unless guidance can be learned from it."""
    model = base.model.model_dump()
    if model["teacher"] is not None:
        raise ValueError(f"--from: {preset} needs a run without guidance, and this one includes it already")
    if base.label_dropout == 0:
        raise ValueError(f"--from: {preset} needs a run with a label_dropout above 0, which knows images of no class")
    return model


def train_command(config: RunConfig) -> str:
    """The command that repeats the run: the seed, the precision, and every option that differs from the preset.

    The precision is always included, because its default depends on the machine. PATH stands for the folder of the
    user's own images, which stays private.
    """
    options = ["--from", config.start] if config.start else []
    for name, value in changes(config).items():
        shown = dataset_option(config.dataset) if name == "dataset" else value
        options += [f"--{name.replace('_', '-')}", str(shown)]
    return f"python -m trainer train {shlex.join([config.preset, *options])}"


def changes(config: RunConfig) -> dict[str, Any]:
    """The overrides that turn ``config.preset`` into ``config`` on any machine."""
    always = ("seed", "precision")
    values = {name: config.value(name) for name in (*always, *(name for name in OVERRIDES if name not in always))}
    return {
        name: value
        for name, value in values.items()
        if name in always or (value is not None and value != _default(config, name))
    }


def _default(config: RunConfig, name: str) -> object:
    """The default of an override: the data set's or the preset's value; None for the user's own preset."""
    if name == "epochs" and config.steps:
        return config.epochs  # ignored when steps are set, so it never differs
    if config.guided and name in NETWORK:
        return config.value(name)  # that of the run it starts from
    if name in ("channels", "image_size"):
        channels, image_size = SHAPES[config.dataset]
        return channels if name == "channels" else image_size
    found: Any = {} if is_own(config.preset) else preset_values(config.preset)
    _fit_network(found, config.model_dump())
    for part in OVERRIDES[name]:
        found = found.get(part) if isinstance(found, dict) else None
    return found


def dataset_option(dataset: DatasetName) -> str:
    """The value of --dataset for ``dataset``; PATH stands for the folder of the user's own images."""
    return "folder:PATH" if dataset == "folder" else dataset
