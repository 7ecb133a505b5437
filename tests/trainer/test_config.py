import shlex
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from tests.trainer.conftest import MakeConfig, base_of
from trainer.__main__ import parser
from trainer.config import OVERRIDES, RunConfig, load_preset, preset_values, presets, train_command
from trainer.model_config import STARTS, AutoencoderConfig, Family, FewStepConfig, LdmConfig, VaeConfig

PRESETS = presets()


@pytest.fixture(params=PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(preset: str, **changes: Any) -> RunConfig:
    base = base_of(preset)
    start = None if base is None else f"runs/{base.preset}"
    return load_preset(preset, base, start=start, **changes)


def test_every_family_has_a_preset() -> None:
    assert {load(name).family for name in presets()} == set(get_args(Family))


def test_every_preset_is_whole(preset: str) -> None:
    config = load(preset)
    assert config.preset == preset
    assert config.dataset == ("emoji" if config.captioned else "fashion-mnist")
    assert 0 < config.label_dropout <= 1


def test_every_loss_and_prediction_that_was_asked_for_has_a_preset() -> None:
    models = [load(name).model.model_dump() for name in PRESETS]
    assert {model.get("loss") for model in models} >= {"relativistic", "hinge", "bce", "wasserstein"}
    assert {model.get("network") for model in models} >= {"residual", "dcgan"}
    assert {model.get("prediction") for model in models} >= {"epsilon", "velocity"}


def test_given_values_replace_the_preset_and_none_leaves_it() -> None:
    preset, config = load_preset("vae"), load_preset("vae", epochs=3, seed=None)
    assert config == preset.model_copy(update={"epochs": 3})


@pytest.mark.parametrize(
    "wrong",
    [{"epoch": 3}, {"epochs": 0}, {"seed": -1}, {"seed": 2**32}, {"label_dropout": 1.5}, {"precision": "fp64"}],
)
def test_unknown_fields_and_impossible_values_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        load_preset("vae", **wrong)


@pytest.mark.parametrize(
    ("preset", "wrong"),
    [
        ("gan", {"beta": 1.0}),
        ("gan", {"loss": "least-squares"}),
        ("gan", {"penalty_every": 0}),
        ("vae", {"prior": "mixture"}),
        ("vae", {"free_bits": -1.0}),
        ("ddpm", {"prediction": "score"}),
        ("ddpm", {"min_snr_gamma": 0.0}),
        ("autoencoder", {"prior": "flow"}),
    ],
)
def test_a_models_wrong_field_is_refused_by_name(preset: str, wrong: dict[str, Any]) -> None:
    model = load_preset(preset).model.model_dump() | wrong
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        load_preset(preset, model=model)


# Runs that begin with another's network


def test_latent_diffusion_takes_over_its_autoencoder() -> None:
    base = load_preset("autoencoder", model=load_preset("autoencoder").model.model_dump() | {"latent": 3})
    config = load_preset("ldm", base, start="runs/mine")
    assert isinstance(config.model, LdmConfig)
    assert config.model.autoencoder == base.model
    assert config.start == "runs/mine"


def test_a_tuned_model_keeps_its_base_but_for_the_sampler_and_the_times() -> None:
    base = load_preset("ddpm", model=load_preset("ddpm").model.model_dump() | {"width": 32, "steps": 17})
    config = load_preset("few-step", base)
    assert isinstance(config.model, FewStepConfig)
    changed = {"solver": "consistency", "steps": 2, "time_mean": 0.3, "time_deviation": 1.8}
    assert config.model.base == base.model.model_copy(update=changed)


@pytest.mark.parametrize(
    ("preset", "base", "complaint"),
    [
        ("ldm", None, "ldm needs a run of family autoencoder to start from"),
        ("ldm", "ddpm", "ldm needs a run of family autoencoder to start from"),
        ("few-step", None, "few-step needs a run of family ddpm to start from"),
        ("few-step", "vae", "few-step needs a run of family ddpm to start from"),
        ("vae", "autoencoder", "vae does not start from another run"),
        ("ddpm", "ddpm", "ddpm does not start from another run"),
    ],
)
def test_what_a_run_begins_with_is_of_the_right_family(preset: str, base: str | None, complaint: str) -> None:
    with pytest.raises(ValueError, match=f"^--from: {complaint}$"):
        load_preset(preset, None if base is None else load_preset(base))


def test_only_these_families_begin_with_another() -> None:
    begun = {
        "ldm": ("autoencoder",),
        "few-step": ("ddpm",),
        "control": ("text",),
        "few-step-text": ("text",),
    }
    assert {name: families for name, (_, families) in STARTS.items()} == begun


@pytest.mark.parametrize("family", ["ddpm", "ldm"])
def test_a_run_with_guidance_takes_over_the_whole_model_of_one_without(family: str) -> None:
    base = base_of(f"{family}-guided")
    assert base is not None
    config = load_preset(f"{family}-guided", base)
    assert config.family == family
    teacher = config.model.model_dump()["teacher"]
    assert teacher["guidance_scale"] > 1
    assert config.model.model_dump() == base.model.model_dump() | {"teacher": teacher}


@pytest.mark.parametrize(
    ("start", "changes", "complaint"),
    [
        (None, {}, "needs a run of family ddpm to start from"),
        ("vae", {}, "needs a run of family ddpm to start from"),
        ("ddpm-guided", {}, "needs a run without guidance, and this one includes it already"),
        ("ddpm", {"label_dropout": 0.0}, "needs a run with a label_dropout above 0, which knows images of no class"),
    ],
)
def test_guidance_is_learned_from_a_run_that_can_be_guided(
    start: str | None, changes: dict[str, Any], complaint: str
) -> None:
    base = None if start is None else load_preset(start, base_of(start), **changes)
    with pytest.raises(ValueError, match=f"^--from: ddpm-guided {complaint}$"):
        load_preset("ddpm-guided", base)


def test_only_diffusion_has_a_teacher() -> None:
    wrong = preset_values("vae")["model"] | {"teacher": {"guidance_scale": 2.0}}
    with pytest.raises(ValidationError, match="teacher"):
        load_preset("vae", model=wrong)


@pytest.mark.parametrize(("preset", "field"), [("ddpm-guided", None), ("few-step", "base"), ("ldm", "autoencoder")])
def test_the_network_of_the_other_run_cannot_be_changed(preset: str, field: str | None) -> None:
    base, model = base_of(preset), preset_values(preset)["model"]
    changed = model | {"width": 24} if field is None else model | {field: model.get(field, {}) | {"width": 24}}
    with pytest.raises(ValueError, match=r"^width is 48 in the model that --from names, so it cannot be 24$"):
        load_preset(preset, base, model=changed)


def test_few_step_takes_no_guidance_of_its_own() -> None:
    model = preset_values("few-step")["model"]
    wrong = model | {"base": model["base"] | {"teacher": {"guidance_scale": 2.0}}}
    with pytest.raises(ValidationError, match="teacher is not for few-step"):
        load_preset("few-step", load_preset("ddpm"), model=wrong)


def test_a_run_that_starts_from_a_guided_one_has_no_teacher() -> None:
    config = load_preset("few-step", load_preset("ddpm-guided", load_preset("ddpm")))
    assert isinstance(config.model, FewStepConfig)
    assert config.model.base.teacher is None


@pytest.mark.parametrize(("size", "patch"), [(28, 2), (64, 2), (96, 4), (128, 4)])
def test_an_autoencoder_of_large_images_has_large_patches(size: int, patch: int) -> None:
    base = load_preset("autoencoder", dataset="folder", image_size=size, channels=3)
    assert isinstance(base.model, AutoencoderConfig)
    assert base.model.patch == patch
    config = load_preset("ldm", base, dataset="folder", image_size=size, channels=3)
    assert isinstance(config.model, LdmConfig)
    assert config.model.autoencoder == base.model


@pytest.fixture
def sized(tmp_path: Path) -> Callable[[str], str]:
    """Writes a preset: the vae's, with this table of networks by image size."""

    def write(networks: str) -> str:
        path = tmp_path / "sized.toml"
        vae = resources.files("trainer").joinpath("presets", "vae.toml").read_text()
        path.write_text(f"network_by_size = {networks}\n{vae}")
        return str(path)

    return write


def test_a_preset_has_networks_by_image_size(sized: Callable[[str], str]) -> None:
    preset = sized("{ 64 = { width = 16, patch = 4 }, 32 = { blocks = 3 } }")

    def network(**changes: Any) -> tuple[int, int, int]:
        model = load_preset(preset, channels=3, **changes).model
        assert isinstance(model, VaeConfig)
        return model.width, model.patch, model.blocks

    assert network(dataset="folder", image_size=28) == (48, 2, 1)
    assert network(dataset="folder", image_size=64) == network(dataset="emoji") == (16, 4, 1)
    assert network(dataset="emoji", width=24) == (24, 4, 1)  # options come last
    assert network(dataset="cifar10") == (48, 2, 3)


@pytest.mark.parametrize(
    ("preset", "size", "network"),
    [("ddpm", 32, (2, 48)), ("ddpm", 64, (4, 64)), ("gan", 32, (2, 48)), ("gan", 64, (4, 64)), ("vae", 64, (2, 48))],
)
def test_a_preset_chooses_the_network_that_was_best_of_equal_time(
    preset: str, size: int, network: tuple[int, int]
) -> None:
    config = load_preset(preset, dataset="folder", image_size=size, channels=3)
    assert (config.value("patch"), config.value("width")) == network


@pytest.mark.parametrize(
    ("networks", "complaint"),
    [
        ("3", "network_by_size"),
        ("{ 64 = 3 }", "network_by_size.64"),
        ("{ 63 = {} }", "network_by_size.63"),
        ("{ 64 = { width = 0 } }", "model.vae.width"),
        ("{ 64 = { wide = 8 } }", "model.vae.wide"),
    ],
)
def test_a_wrong_network_by_size_is_refused_by_name(sized: Callable[[str], str], networks: str, complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        load_preset(sized(networks), dataset="emoji")


@pytest.mark.parametrize("preset", ["ddpm", "gan", "vae", "autoencoder"])
def test_images_have_whole_patches(preset: str) -> None:
    with pytest.raises(ValidationError, match=f"--image-size 28: {preset} takes a multiple of 8"):
        load_preset(preset, patch=4)
    assert load_preset(preset, dataset="cifar10", patch=4).value("patch") == 4


@pytest.mark.parametrize(("preset", "start"), [("ldm", "autoencoder"), ("few-step", "ddpm"), ("ddpm-guided", "ddpm")])
def test_images_have_whole_patches_of_the_network_that_a_run_takes_over(preset: str, start: str) -> None:
    base = load_preset(start, dataset="cifar10", patch=4)
    with pytest.raises(ValidationError, match=f"--image-size 28: {preset} takes a multiple of 8"):
        load_preset(preset, base)
    load_preset(preset, base, dataset="cifar10")


def test_dcgan_has_no_other_patches() -> None:
    with pytest.raises(ValidationError, match="only residual networks have other patches"):
        load_preset("dcgan", dataset="emoji", patch=4)


def test_large_images_are_for_the_latent_family() -> None:
    with pytest.raises(ValidationError, match="--image-size 96: only for autoencoder and ldm; gan takes 28, 32 or 64"):
        load_preset("gan", dataset="folder", image_size=96)


def test_text_needs_captions_and_whole_patches() -> None:
    with pytest.raises(ValidationError, match="emoji needs captioned images"):
        load("emoji", dataset="fashion-mnist")
    with pytest.raises(ValidationError, match="multiple of 8"):
        load("emoji", dataset="folder", image_size=28, channels=3)
    assert load("emoji", dataset="folder", image_size=32, channels=3).captioned


# The command that gives a run again


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 3, "batch_size": 7, "seed": 11, "precision": "fp32"},
        {"dataset": "celeba"},
        {"precision": "bf16", "steps": 500, "learning_rate": 3e-5},
        {"dataset": "folder", "image_size": 32, "channels": 3},
    ],
)
def test_the_train_command_gives_the_config_back(preset: str, changes: dict[str, Any]) -> None:
    if load(preset).captioned and changes.get("dataset") == "celeba":
        pytest.skip("its pictures have no captions")
    config = load(preset, **changes)
    program, arguments = train_command(config).split(" train ")
    assert program == "python -m trainer"
    options = parser().parse_args(["train", *shlex.split(arguments)])
    start = None if options.start is None else options.start.as_posix()
    overrides = {name: getattr(options, name) for name in OVERRIDES}
    assert load_preset(options.preset, base_of(options.preset), start=start, **overrides) == config


def test_the_train_command_says_no_more_than_differs() -> None:
    always = "--seed 0 --precision fp32"  # the default precision depends on the machine
    assert train_command(load_preset("vae")) == f"python -m trainer train vae {always}"
    assert train_command(load_preset("vae", epochs=3)) == f"python -m trainer train vae {always} --epochs 3"
    assert train_command(load_preset("vae", dataset="cifar10")).endswith(f"{always} --dataset cifar10")
    assert train_command(load_preset("vae", dataset="folder")).endswith(f"{always} --dataset folder:PATH")
    assert train_command(load("ldm")) == f"python -m trainer train ldm --from runs/autoencoder {always}"
    assert train_command(load("ddpm-guided")) == f"python -m trainer train ddpm-guided --from runs/ddpm {always}"


def test_a_folder_with_a_space_survives_the_train_command(make_config: MakeConfig) -> None:
    config = make_config("ldm", start="my runs/auto encoder")
    assert "--from 'my runs/auto encoder'" in train_command(config)


# Data sets


@pytest.mark.parametrize(
    ("dataset", "channels", "image_size"),
    [("fashion-mnist", 1, 28), ("mnist", 1, 28), ("cifar10", 3, 32), ("celeba", 3, 64), ("folder", 1, 28)],
)
def test_a_data_set_brings_its_shape(dataset: str, channels: int, image_size: int) -> None:
    config = load_preset("vae", dataset=dataset)
    assert (config.channels, config.image_size) == (channels, image_size)


@pytest.mark.parametrize(("dataset", "wrong"), [("mnist", {"image_size": 32}), ("cifar10", {"channels": 1})])
def test_a_published_set_takes_no_other_shape(dataset: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="omit --image-size and --channels"):
        load_preset("vae", dataset=dataset, **wrong)
