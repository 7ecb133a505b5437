"""The manifest that a folder gets, and folders as models: loaded, refused, followed and replaced."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from service.contract.manifest import Manifest
from service.contract.signature import ANYONE
from service.engine.inputs import Input
from service.engine.model import Model
from service.models.diffusers import libraries, manifest, model
from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import DiffusersFolder
from service.models.diffusers.manifest import diffusers_manifest
from service.models.diffusers.model import described, with_tokenizers
from service.models.diffusers.version import digest_of
from service.models.folders import Stamps, model_directories, read_any_manifest
from service.models.registry import load, load_registry, prepare
from service.settings import Settings
from tests.service.artefacts import write_one_shot
from tests.service.engine.running import running
from tests.service.models.diffusers.conftest import CPU
from tests.service.models.diffusers.tiny import NAMES, edit_json, write_lora

FolderOf = Callable[[str], Path]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.mkdir()
    return path


def copied(folder_of: FolderOf, weights: Path, name: str = "sd") -> Path:
    return Path(shutil.copytree(folder_of(name), weights / name))


@pytest.mark.parametrize("name", NAMES)
def test_every_folder_has_a_manifest_that_says_what_its_networks_need(folder_of: FolderOf, name: str) -> None:
    found = diffusers_manifest(folder_of(name))
    assert Manifest.model_validate_json(found.model_dump_json()) == found
    loaded, told = load(folder_of(name), CPU, found), described(found, CPU)
    assert loaded.inputs == told.inputs
    assert (loaded.encode is None) == (told.encode is None)
    assert (loaded.encode_text is None) == (told.encode_text is None)
    assert loaded.plan().steps == told.plan().steps == found.defaults.steps  # type: ignore[union-attr]
    assert found.defaults.solver in loaded.solvers  # type: ignore[union-attr]
    assert loaded.max_steps >= loaded.plan().steps
    if loaded.tokenize is not None:
        ours = with_tokenizers(told, folder_of(name)).tokenize
        assert ours is not None
        assert torch.equal(ours("a fox").ids, loaded.tokenize("a fox").ids)
        assert loaded.tokenize("a fox").ids.shape == (found.pipeline.encoders, found.pipeline.tokens)  # type: ignore[union-attr]


def test_what_a_text_model_declares(folder_of: FolderOf) -> None:
    declared = described(diffusers_manifest(folder_of("control")), CPU).inputs
    assert declared == {
        "context": Input((16, 16), negative=True),
        "hint": Input((3, 16, 16), optional=True),
        "hint_scale": Input((), optional=True),
    }


def test_files_are_hashed_once(folder_of: FolderOf, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copied(folder_of, weights)
    hashed: list[Path] = []

    def digest(folder: DiffusersFolder) -> str:
        hashed.append(folder.path)
        return digest_of(folder)

    monkeypatch.setattr(manifest, "digest_of", digest)
    first = diffusers_manifest(folder)
    assert diffusers_manifest(folder) == first
    assert hashed == [folder]
    before = Stamps().of(folder)
    write_lora(folder, "ink", seed=1)
    assert Stamps().of(folder) != before
    second = diffusers_manifest(folder)
    assert (second.version != first.version, len(hashed)) == (True, 2)
    assert second.pipeline is not None
    assert second.pipeline.loras == ("ink",)


def test_both_kinds_of_folders_are_models(folder_of: FolderOf, weights: Path) -> None:
    copied(folder_of, weights, "ddim")
    write_one_shot(weights, "vae")
    (weights / "notes").mkdir()
    assert [*model_directories(weights)] == ["ddim", "vae"]
    registry = load_registry(Settings(weights_dir=weights, device="cpu", max_bucket=2), CPU)
    assert [*registry.served] == ["ddim", "vae"]
    assert registry.refused == {}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda folder: (folder / "unet/config.json").write_text("{"), "not JSON"),
        (lambda folder: edit_json(folder / "scheduler/scheduler_config.json", thresholding=True), "thresholding"),
        (
            lambda folder: (folder / "genserve.json").write_text('{"name": "other"}'),
            "name: other in a folder named ddim",
        ),
        (lambda folder: (folder / "unet/model.bin").write_text(""), "a pickle"),
        (lambda folder: shutil.rmtree(folder / "unet"), "unet"),
    ],
)
def test_a_folder_that_cannot_be_served_is_refused_alone(
    folder_of: FolderOf, weights: Path, spoil: Callable[[Path], object], reason: str
) -> None:
    spoil(copied(folder_of, weights, "ddim"))
    write_one_shot(weights, "vae")
    registry = load_registry(Settings(weights_dir=weights, device="cpu", max_bucket=2), CPU)
    assert [*registry.served] == ["vae"]
    assert reason in registry.refused["ddim"]


def test_without_the_libraries_it_is_refused_with_the_command(
    folder_of: FolderOf, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(folder_of, weights, "ddim")
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    registry = load_registry(Settings(weights_dir=weights, device="cpu", max_bucket=2), CPU)
    assert libraries.INSTALL in registry.refused["ddim"]


def test_too_large_a_model_is_refused_before_it_is_read(folder_of: FolderOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "available_bytes", lambda: 1000)
    monkeypatch.setattr(model, "load_networks", None)
    with pytest.raises(Exception, match=r"need 0\.0 GiB, and 0\.0 GiB are free"):
        load(folder_of("ddim"), CPU, read_any_manifest(folder_of("ddim"), ANYONE))


async def test_a_changed_folder_is_followed_and_its_version_replaced(folder_of: FolderOf, weights: Path) -> None:
    folder = copied(folder_of, weights, "ddim")
    async with running(Settings(weights_dir=weights, device="cpu", max_bucket=2)) as service:
        first = service.version("ddim")
        await service.manager.follow()
        assert (await service.manager.reload("ddim")).outcome == "unchanged"
        edit_json(folder / "scheduler/scheduler_config.json", beta_end=0.03)
        await service.manager.follow()
        assert service.version("ddim") == read_any_manifest(folder, ANYONE).version != first
        (folder / "unet/config.json").write_text("{")
        await service.manager.follow()
        (status,) = await service.manager.statuses()
        assert status.state == "serving"
        assert "not JSON" in (status.problem or "")
        assert status.earlier_versions == []


def test_a_class_of_each_row(folder_of: FolderOf) -> None:
    served = prepare(folder_of("classes"), CPU, Settings(device="cpu", max_bucket=2))
    found: Model = served.model
    assert found.manifest.class_names == ("0", "1", "2", "3", "4")
    assert [*found.inputs] == ["label"]


def test_an_unusable_name_is_refused(folder_of: FolderOf, weights: Path) -> None:
    folder = Path(shutil.copytree(folder_of("ddim"), weights / "Not A Name"))
    with pytest.raises(FolderError, match="name"):
        diffusers_manifest(folder)
