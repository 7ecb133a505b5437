from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest

from service.models.diffusers.card import describe
from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import read_folder
from tests.service.models.diffusers.tiny import NAMES, edit_json, write_lora

FolderOf = Callable[[str], Path]


@pytest.fixture
def sd(folder_of: FolderOf, tmp_path: Path) -> Path:
    return Path(copytree(folder_of("sd"), tmp_path / "sd"))


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_has_a_card(folder_of: FolderOf, name: str) -> None:
    card = describe(read_folder(folder_of(name)))
    assert card.solver in card.solvers
    assert card.parameters > 50_000
    card.sizes.require(card.sizes.width, card.sizes.height)


def test_text_to_image(sd: Path) -> None:
    write_lora(sd, "ink", seed=1)
    card = describe(read_folder(sd))
    assert card.tasks == ("text-to-image", "image-to-image", "inpaint")
    assert (card.steps, card.guidance_scale, card.solver) == (50, 7.5, "ddim")
    assert (card.guidance, card.negative, card.tokens) == ("classifier-free", True, 14)
    assert (card.loras, card.controls, card.licence) == (("ink",), (), None)


def test_other_kinds(folder_of: FolderOf) -> None:
    cards = {name: describe(read_folder(folder_of(name))) for name in NAMES}
    assert cards["control"].controls == ("controlnet",)
    assert "control" in cards["control"].tasks
    assert cards["inpaint9"].tasks == ("inpaint",)
    assert cards["ddpm"].tasks == ("generate",)
    assert (cards["classes"].classes, cards["classes"].guidance) == (5, "none")
    assert cards["sd_v"].prediction_type == "v_prediction"
    assert (cards["lcm"].solvers, cards["lcm"].guidance, cards["lcm"].negative) == (("lcm",), "embedded", False)
    assert (cards["turbo"].steps, cards["turbo"].guidance_scale) == (1, 0.0)
    assert "Turbo" in cards["turbo"].notes[0]


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "UniPCMultistepScheduler"])
def test_a_scheduler_that_another_solver_serves_is_noted(sd: Path, scheduler: str) -> None:
    edit_json(sd / "model_index.json", scheduler=["diffusers", scheduler])
    edit_json(sd / "scheduler/scheduler_config.json", _class_name=scheduler)
    card = describe(read_folder(sd))
    assert card.solver == "dpmpp_2m"
    assert scheduler in card.notes[0]


def test_genserve_json(sd: Path) -> None:
    text = """{"name": "small", "licence": "MIT", "dtype": "bfloat16", "max_side": 64,
               "defaults": {"steps": 8, "guidance_scale": 0, "width": 24, "height": 64, "solver": "euler"}}"""
    (sd / "genserve.json").write_text(text)
    card = describe(read_folder(sd))
    assert (card.name, card.licence, card.dtype) == ("small", "MIT", "bfloat16")
    assert (card.steps, card.guidance_scale, card.solver) == (8, 0.0, "euler")
    assert (card.sizes.width, card.sizes.height, card.sizes.largest) == (24, 64, 64)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"name": "Small"}', "name: "),
        ('{"steps": 4}', "steps: Extra"),
        ('{"dtype": "int8"}', "dtype: "),
        ('{"defaults": {"steps": 0}}', "defaults.steps: "),
        ('{"defaults": {"guidance_scale": NaN}}', "defaults.guidance_scale: "),
        ('{"defaults": {"width": 18}}', "defaults: width 18 is not a multiple of 4"),
        ('{"defaults": {"height": 400}}', "defaults: height 400"),
        ('{"defaults": {"solver": "pndm"}}', "defaults.solver: "),
    ],
)
def test_a_wrong_genserve_json_names_its_field(sd: Path, text: str, reason: str) -> None:
    (sd / "genserve.json").write_text(text)
    with pytest.raises(FolderError, match=f"genserve.json: {reason}"):
        describe(read_folder(sd))


def test_sizes_of_a_model_of_pixels_are_fixed(folder_of: FolderOf) -> None:
    sizes = describe(read_folder(folder_of("ddpm"))).sizes
    sizes.require(8, 8)
    with pytest.raises(ValueError, match="only 8 x 8"):
        sizes.require(16, 16)


def test_sizes_of_a_text_model(folder_of: FolderOf) -> None:
    sizes = describe(read_folder(folder_of("sd"))).sizes
    assert (sizes.multiple, sizes.smallest, sizes.largest) == (4, 4, 32)
    sizes.require(4, 32)
    with pytest.raises(ValueError, match="width 36"):
        sizes.require(36, 16)


def test_a_class_less_than_the_unet_has_means_no_class(folder_of: FolderOf, tmp_path: Path) -> None:
    path = Path(copytree(folder_of("classes"), tmp_path / "classes"))
    (path / "genserve.json").write_text('{"class_names": ["a", "b", "c", "d"]}')
    assert describe(read_folder(path)).guidance == "classifier-free"
    (path / "genserve.json").write_text('{"defaults": {"guidance_scale": 3.0}}')
    with pytest.raises(FolderError, match="guidance_scale: guidance needs a class"):
        describe(read_folder(path))
    (path / "genserve.json").write_text('{"class_names": ["a", "b"]}')
    with pytest.raises(FolderError, match="num_class_embeds: 5"):
        read_folder(path)
