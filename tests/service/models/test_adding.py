"""Models that are added to a weights folder, and what failures leave behind: nothing."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from service.contract.signature import ANYONE
from service.models.adding import add_folder, add_lora
from service.models.diffusers import libraries
from service.models.folders import Unusable, model_directories, read_any_manifest
from tests.service.artefacts import write_diffusion
from tests.service.models.diffusers.tiny import edit_json, write_folder, write_lora

UNET = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("adding") / "sd", "sd")


@pytest.fixture
def sd(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "sd"))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    made = tmp_path / "weights"
    made.mkdir()
    return made


def test_a_copy_is_independent_and_has_the_version_of_its_source(sd: Path, weights: Path) -> None:
    (sd / ".cache").mkdir()
    (sd / ".cache/large").write_text("not part of the model")
    manifest = add_folder(sd, weights)
    assert manifest == read_any_manifest(weights / "sd", ANYONE)
    assert manifest.version == read_any_manifest(sd, ANYONE).version
    assert os.listdir(weights) == ["sd"]  # noqa: PTH208
    assert not (weights / "sd/.cache").exists()
    shutil.rmtree(sd)
    assert read_any_manifest(weights / "sd", ANYONE).name == "sd"


def test_a_copy_can_be_read_by_the_user_of_a_container(sd: Path, weights: Path) -> None:
    for file in sd.rglob("*.safetensors"):
        file.chmod(0o600)  # as safetensors writes them
    umask = os.umask(0o022)
    try:
        add_folder(sd, weights)
    finally:
        os.umask(umask)
    assert {path.stat().st_mode & 0o777 for path in (weights / "sd").rglob("*.*")} == {0o644}


def test_a_link_has_another_name(sd: Path, weights: Path) -> None:
    assert add_folder(sd, weights, "fox", link=True).name == "fox"
    assert (weights / "fox").readlink() == sd
    assert [*model_directories(weights)] == ["fox"]


def test_a_folder_of_links_as_in_the_hubs_cache_is_copied_not_linked(sd: Path, weights: Path, tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    (sd / UNET).rename(blob)
    (sd / UNET).symlink_to(blob)
    with pytest.raises(Unusable, match="a symbolic link that leaves the folder"):
        add_folder(sd, weights, link=True)
    add_folder(sd, weights)
    assert not (weights / "sd" / UNET).is_symlink()
    assert (weights / "sd" / UNET).read_bytes() == blob.read_bytes()


def _pickle(folder: Path) -> None:
    (folder / "unet/weights.BIN").write_bytes(b"\x80")


def _code(folder: Path) -> None:
    (folder / "pipeline.py").write_text("")


def _custom(folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name=["pipeline", "MyPipeline"])


def _remote(folder: Path) -> None:
    edit_json(folder / "unet/config.json", auto_map={"AutoModel": "x--y"})


def _wrong_shape(folder: Path) -> None:
    save_file(load_file(folder / UNET) | {"conv_in.bias": load_file(folder / UNET)["conv_in.bias"][:3]}, folder / UNET)


def _wrong_default(folder: Path) -> None:
    (folder / "genserve.json").write_text('{"defaults": {"width": 17}}')


def _not_one(folder: Path) -> None:
    (folder / "model_index.json").unlink()


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_pickle, "{}/unet/weights.BIN: a pickle runs code"),
        (_code, "{}/pipeline.py: code of a folder is never run"),
        (_custom, "{}/model_index.json: _class_name: a custom pipeline; "),
        (_remote, "{}/unet/config.json: auto_map: remote code"),
        (_wrong_shape, "{}/" + UNET + ": conv_in.bias is (3,), not (16,)"),
        (_wrong_default, "{}/genserve.json: defaults: width 17"),
        (_not_one, "{}: neither model_index.json nor manifest.json"),
    ],
)
def test_what_cannot_be_served_is_named_and_leaves_nothing(
    sd: Path, weights: Path, spoil: Callable[[Path], None], says: str, link: bool
) -> None:
    spoil(sd)
    with pytest.raises(Unusable) as caught:
        add_folder(sd, weights, link=link)
    assert str(caught.value).startswith(says.format(sd))
    assert [*weights.iterdir()] == []


def test_an_interrupted_copy_leaves_nothing(sd: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, copied = shutil.copyfile, []

    def interrupted(source: Path, target: Path) -> None:
        copied.append(copy(source, target))
        if len(copied) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", interrupted)
    with pytest.raises(KeyboardInterrupt):
        add_folder(sd, weights)
    assert len(copied) == 3
    assert [*weights.iterdir()] == []


@pytest.mark.parametrize("link", [False, True])
def test_what_exists_is_kept(sd: Path, weights: Path, link: bool) -> None:
    (weights / "sd").mkdir()
    (weights / "gone").symlink_to("nothing")
    for name in ("sd", "gone"):
        with pytest.raises(Unusable, match=f"{name}: exists already; choose another name with --name, or delete it"):
            add_folder(sd, weights, name, link=link)
    assert sorted(path.name for path in weights.iterdir()) == ["gone", "sd"]


@pytest.mark.parametrize("name", ["Big", "a b", "../up", ".hidden", "x" * 33])
def test_names(sd: Path, weights: Path, name: str) -> None:
    with pytest.raises(Unusable, match="is not a model's name"):
        add_folder(sd, weights, name)
    with pytest.raises(Unusable, match=f"{weights}/none: no such folder"):
        add_folder(sd, weights / "none")
    with pytest.raises(Unusable, match=f"{sd}/none: no such folder"):
        add_folder(sd / "none", weights)


def test_without_the_libraries_the_command_that_installs_them_is_named(
    sd: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(libraries, "find_spec", lambda name: None)
    with pytest.raises(Unusable, match=r"needs the package diffusers: pip install 'genserve\[diffusers\]'"):
        add_folder(sd, weights)
    assert [*weights.iterdir()] == []


def test_an_exported_model_keeps_its_name(weights: Path, tmp_path: Path) -> None:
    write_diffusion(tmp_path)
    (tmp_path / "ddpm/card.md").write_text("A card.")
    with pytest.raises(Unusable, match=f"{tmp_path}/ddpm/manifest.json: name: ddpm in a folder named other"):
        add_folder(tmp_path / "ddpm", weights, "other")
    assert add_folder(tmp_path / "ddpm", weights) == read_any_manifest(weights / "ddpm", ANYONE)
    assert (weights / "ddpm/card.md").read_text() == "A card."


def test_a_damaged_export_is_refused(weights: Path, tmp_path: Path) -> None:
    manifest = write_diffusion(tmp_path)
    artifact = tmp_path / "ddpm" / manifest.artifact.file
    artifact.write_bytes(artifact.read_bytes()[:-1] + b"?")
    with pytest.raises(Unusable, match=str(artifact)):
        add_folder(tmp_path / "ddpm", weights)
    assert [*weights.iterdir()] == []


class TestLora:
    @pytest.fixture
    def ink(self, tmp_path: Path) -> Path:
        return write_lora(tmp_path, "ink", seed=1, text=True)

    def test_is_one_of_the_model(self, sd: Path, weights: Path, ink: Path) -> None:
        add_folder(sd, weights)
        before = read_any_manifest(weights / "sd", ANYONE).version
        assert add_lora(ink, weights, "sd") == (weights / "sd/loras/ink.safetensors").resolve()
        assert add_lora(ink, weights, "sd", "oil").read_bytes() == ink.read_bytes()
        found = read_any_manifest(weights / "sd", ANYONE)
        assert found.pipeline is not None
        assert found.pipeline.loras == ("ink", "oil")
        assert found.version != before
        with pytest.raises(Unusable, match=r"ink\.safetensors: exists already"):
            add_lora(ink, weights, "sd")

    def test_of_another_model_is_refused(self, sd: Path, weights: Path, ink: Path) -> None:
        add_folder(sd, weights)
        state = load_file(ink)
        save_file({name: tensor[:, :1].contiguous() for name, tensor in state.items()}, ink)
        with pytest.raises(Unusable, match="does not fit the model"):
            add_lora(ink, weights, "sd")
        pickle = ink.rename(ink.with_suffix(".pt"))
        with pytest.raises(Unusable, match=r"ink\.pt: a pickle runs code"):
            add_lora(pickle, weights, "sd")
        assert not (weights / "sd/loras").exists()

    @pytest.mark.parametrize("name", ["a b", "../ink", ""])
    def test_has_a_name(self, sd: Path, weights: Path, ink: Path, name: str) -> None:
        add_folder(sd, weights, link=True)
        odd = ink.rename(ink.with_name("a b.safetensors"))
        with pytest.raises(Unusable, match="use letters"):
            add_lora(odd, weights, "sd", name)

    def test_needs_a_model_in_diffusers_format(self, sd: Path, weights: Path, ink: Path) -> None:
        write_diffusion(weights)
        add_folder(sd, weights, "fox", link=True)
        for model in ("ddpm", "none", "../sd"):
            with pytest.raises(Unusable, match=r"not a folder in diffusers' format; .* has fox"):
                add_lora(ink, weights, model)
