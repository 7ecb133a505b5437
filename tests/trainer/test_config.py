import shlex
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from trainer.__main__ import parser
from trainer.config import OVERRIDES, Family, load_preset, train_command

FAMILIES: tuple[Family, ...] = get_args(Family)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_preset_of_at_least_twenty_epochs(family: Family) -> None:
    config = load_preset(family)
    assert config.family == family
    assert config.epochs >= 20
    assert 0 < config.label_dropout < 1


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


def test_a_models_unknown_field_is_refused() -> None:
    model = load_preset("gan").model.model_dump() | {"beta": 1.0}
    with pytest.raises(ValidationError, match="beta"):
        load_preset("gan", model=model)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 3, "batch_size": 7, "seed": 11, "precision": "fp32"},
        {"dataset": "celeba"},
        {"dataset": "folder", "image_size": 32, "channels": 3},
    ],
)
def test_the_train_command_gives_the_config_back(family: Family, changes: dict[str, Any]) -> None:
    config = load_preset(family, **changes)
    program, *arguments = train_command(config).split(" train ")
    assert program == "python -m trainer"
    options = parser().parse_args(["train", *shlex.split(arguments[0])])
    assert load_preset(options.model, **{name: getattr(options, name) for name in OVERRIDES}) == config


def test_the_train_command_says_no_more_than_differs() -> None:
    assert train_command(load_preset("vae")) == "python -m trainer train vae --seed 0"
    assert train_command(load_preset("vae", epochs=3)) == "python -m trainer train vae --seed 0 --epochs 3"
    assert train_command(load_preset("vae", dataset="cifar10")).endswith("--seed 0 --dataset cifar10")
    assert train_command(load_preset("vae", dataset="folder")).endswith("--seed 0 --dataset folder:PATH")


@pytest.mark.parametrize(
    ("dataset", "channels", "image_size"),
    [("fashion-mnist", 1, 28), ("mnist", 1, 28), ("cifar10", 3, 32), ("celeba", 3, 64), ("folder", 1, 28)],
)
def test_a_data_set_brings_its_shape(dataset: str, channels: int, image_size: int) -> None:
    config = load_preset("vae", dataset=dataset)
    assert (config.channels, config.image_size) == (channels, image_size)


@pytest.mark.parametrize(("dataset", "wrong"), [("mnist", {"image_size": 32}), ("cifar10", {"channels": 1})])
def test_a_published_set_takes_no_other_shape(dataset: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="leave --image-size and --channels out"):
        load_preset("vae", dataset=dataset, **wrong)
