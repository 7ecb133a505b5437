"""Folders that are not served: one line names the file and the field."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.files import ContractError
from service.models.diffusers.files import FolderError, read_weights
from service.models.diffusers.folder import is_diffusers_folder, read_folder
from tests.service.models.diffusers.tiny import edit_json, write_lora

FolderOf = Callable[[str], Path]
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def sd(folder_of: FolderOf, tmp_path: Path) -> Path:
    return Path(copytree(folder_of("sd"), tmp_path / "sd"))


def rejection(path: Path) -> str:
    with pytest.raises(FolderError) as caught:
        read_folder(path)
    assert isinstance(caught.value, ContractError)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}/")


def test_what_is_read(sd: Path) -> None:
    folder = read_folder(sd)
    assert (folder.pipeline, folder.kind) == ("StableDiffusionPipeline", "text")
    assert folder.scheduler.class_name == "DDIMScheduler"
    assert [network.class_name for network in folder.networks] == [
        "UNet2DConditionModel",
        "AutoencoderKL",
        "CLIPTextModel",
    ]
    assert (folder.latent_channels, folder.latent_factor, folder.paints_in) == (4, 2, False)
    assert is_diffusers_folder(sd)
    assert not is_diffusers_folder(sd / "unet")


def test_a_link_to_the_folder_is_followed(sd: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(sd)
    assert read_folder(tmp_path / "link").path == sd


def test_hidden_files_are_not_opened(sd: Path) -> None:
    (sd / ".cache").mkdir()
    (sd / ".cache/weights.bin").write_bytes(b"")
    os.mkfifo(sd / "unet/.pipe")
    read_folder(sd)


def test_ignored_components_are_noted(sd: Path) -> None:
    edit_json(sd / "model_index.json", safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])
    assert read_folder(sd).notes == ("safety_checker is not used",)


@pytest.mark.parametrize("name", ["x.bin", "unet/x.ckpt", "a/b/x.pt", "vae/X.PTH", "data.pkl"])
def test_pickles(sd: Path, name: str) -> None:
    (sd / name).parent.mkdir(parents=True, exist_ok=True)
    (sd / name).write_bytes(b"")
    assert rejection(sd).startswith(f"{name}: a pickle")


def test_code(sd: Path) -> None:
    (sd / "unet/my_unet.py").write_text("")
    assert rejection(sd).startswith("unet/my_unet.py: code")


@pytest.mark.parametrize("name", ["unet/config.json", "model_index.json", "tokenizer/tokenizer_config.json"])
@pytest.mark.parametrize("key", ["auto_map", "trust_remote_code", "custom_pipeline", "quantization_config"])
def test_remote_code(sd: Path, name: str, key: str) -> None:
    edit_json(sd / name, **{key: {"AutoModel": "code.Model"}})
    assert rejection(sd).startswith(f"{name}: {key}: ")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"_class_name": "FluxPipeline"}, "_class_name: FluxPipeline is not served"),
        ({"_class_name": ["code", "MyPipeline"]}, "_class_name: a custom pipeline"),
        ({"_class_name": None}, "_class_name: None is not served"),
        ({"unet": ["diffusers", "UNet3DConditionModel"]}, "unet: UNet3DConditionModel is not supported"),
        ({"unet": ["my_code", "UNet2DConditionModel"]}, "unet: code of the library 'my_code'"),
        ({"unet": ["diffusers", ["a"]]}, "unet: "),
        ({"vae": None}, "vae: None is not supported"),
        ({"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]}, "scheduler: FlowMatch"),
        ({"motion_adapter": ["diffusers", "MotionAdapter"]}, "motion_adapter: this component"),
        ({"../evil": ["diffusers", "UNet2DModel"]}, "../evil: this component"),
        ({"requires_aesthetics_score": True}, "requires_aesthetics_score: "),
        ({"controlnet": ["diffusers", "ControlNetModel"]}, ""),
    ],
)
def test_model_index(sd: Path, fields: dict[str, Any], reason: str) -> None:
    edit_json(sd / "model_index.json", **fields)
    where = "controlnet: missing" if "controlnet" in fields else f"model_index.json: {reason}"
    assert rejection(sd).startswith(where)


@pytest.mark.parametrize(
    ("name", "fields", "reason"),
    [
        ("unet/config.json", {"_class_name": "UNet2DModel"}, "the class is UNet2DModel"),
        ("unet/config.json", {"cross_attention_dim": 8}, "cross_attention_dim: 8, but the prompt has width 16"),
        ("unet/config.json", {"in_channels": 5}, "in_channels: 5 is neither 4 nor 9"),
        ("unet/config.json", {"sample_size": 1 << 20}, "sample_size"),
        ("unet/config.json", {"sample_size": None}, "sample_size"),
        ("unet/config.json", {"layers_per_block": 10**9}, "layers_per_block"),
        ("unet/config.json", {"block_out_channels": [16] * 100}, "block_out_channels: "),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "addition_embed_type: text_time does not fit"),
        ("unet/config.json", {"addition_embed_type": "image"}, "addition_embed_type: "),
        ("unet/config.json", {"encoder_hid_dim_type": "text_proj"}, "encoder_hid_dim_type: "),
        ("vae/config.json", {"latent_channels": 16}, "latent_channels: 16, but the UNet predicts 4"),
        ("vae/config.json", {"scaling_factor": 0}, "scaling_factor: "),
        ("text_encoder/config.json", {"num_hidden_layers": 10**6}, "num_hidden_layers: "),
        ("text_encoder/config.json", {"model_type": "t5"}, "model_type: "),
        ("text_encoder/config.json", {"architectures": ["T5EncoderModel"]}, "the class is T5EncoderModel"),
        ("scheduler/scheduler_config.json", {"prediction_type": "flow"}, "prediction_type: "),
        ("scheduler/scheduler_config.json", {"_class_name": "DDPMScheduler"}, "_class_name: "),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 0}, "num_train_timesteps: "),
    ],
)
def test_configurations(sd: Path, name: str, fields: dict[str, Any], reason: str) -> None:
    edit_json(sd / name, **fields)
    assert rejection(sd).startswith(f"{name}: {reason}")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": "' + "x" * (1 << 20) + '"}', "larger than"),
    ],
)
def test_json(sd: Path, text: str, reason: str) -> None:
    (sd / "unet/config.json").write_text(text)
    assert rejection(sd).startswith(f"unet/config.json: {reason}")


def test_json_that_is_not_utf8(sd: Path) -> None:
    (sd / "unet/config.json").write_bytes(b'{"\xff": 1}')
    assert rejection(sd).startswith("unet/config.json: not JSON")


def test_a_missing_folder(sd: Path) -> None:
    rmtree(sd / "vae")
    assert rejection(sd) == "vae/config.json: No such file or directory"
    assert "no such folder" in rejection(sd / "nothing")
    assert "not a folder" in rejection(sd / "model_index.json")


def test_a_link_that_leaves_the_folder(sd: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes((sd / WEIGHTS).read_bytes())
    (sd / WEIGHTS).unlink()
    (sd / WEIGHTS).symlink_to(tmp_path / "outside")
    assert rejection(sd).startswith(f"{WEIGHTS}: a symbolic link that leaves the folder")


def test_links_inside_the_folder(sd: Path) -> None:
    (sd / WEIGHTS).rename(sd / "unet/weights.safetensors")
    (sd / WEIGHTS).symlink_to(sd / "unet/weights.safetensors")
    read_folder(sd)
    (sd / "unet/loop").symlink_to(sd / "unet/loop")
    assert rejection(sd).startswith("unet/loop: a symbolic link to nothing")


def test_a_folder_that_links_to_itself_ends(sd: Path) -> None:
    (sd / "again").symlink_to(sd)
    assert "levels of folders" in rejection(sd)


def test_pipes(sd: Path) -> None:
    os.mkfifo(sd / "unet/pipe.safetensors")
    assert rejection(sd) == "unet/pipe.safetensors: not a regular file"


def test_too_many_files(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.models.diffusers.files.MAX_FILES", 5)
    assert "more than 5 files" in rejection(sd)


def shard(folder: Path, names: dict[str, str]) -> None:
    (folder / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))


def test_missing_weights(sd: Path) -> None:
    (sd / WEIGHTS).rename(sd / "unet/diffusion_pytorch_model-00001-of-00002.safetensors")
    assert "index.json is missing beside its shards" in rejection(sd)
    shard(sd, {"a": "diffusion_pytorch_model-00002-of-00002.safetensors"})
    assert rejection(sd).endswith("weight_map: diffusion_pytorch_model-00002-of-00002.safetensors is missing")
    (sd / "unet/diffusion_pytorch_model-00001-of-00002.safetensors").unlink()
    (sd / "unet/diffusion_pytorch_model.safetensors.index.json").unlink()
    assert rejection(sd) == "unet: no diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("name", ["../vae/diffusion_pytorch_model.safetensors", "/etc/passwd", "x.bin", "", 3])
def test_an_index_names_files_of_its_own_folder(sd: Path, name: str) -> None:
    (sd / WEIGHTS).unlink()
    shard(sd, {"a": name})
    assert "weight_map: " in rejection(sd)


def test_a_variant(sd: Path) -> None:
    (sd / WEIGHTS).rename(sd / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert read_folder(sd).unet.weights[0].path.name == "diffusion_pytorch_model.fp16.safetensors"


@given(st.integers(0, 200), st.binary(max_size=40))
def test_damaged_weights(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory, at: int, other: bytes) -> None:
    """Whatever the bytes are, reading the header ends with a folder or one line."""
    whole = (folder_of("sd") / WEIGHTS).read_bytes()
    path = tmp_path_factory.getbasetemp() / "damaged.safetensors"
    path.write_bytes(whole[:at] + other + whole[at + len(other) :])
    with suppress(FolderError):  # any other error fails the test
        assert read_weights(path).size == path.stat().st_size
    path.write_bytes(whole[:-1])
    with pytest.raises(FolderError, match="copy the file again"):
        read_weights(path)


def test_control_nets(folder_of: FolderOf, tmp_path: Path) -> None:
    path = Path(copytree(folder_of("control"), tmp_path / "control"))
    copytree(path / "controlnet", path / "controlnet_canny")
    assert sorted(read_folder(path).controlnets) == ["canny", "controlnet"]
    edit_json(path / "controlnet_canny/config.json", cross_attention_dim=8)
    assert rejection(path).startswith("controlnet_canny/config.json: cross_attention_dim: 8, but the UNet has 16")
    edit_json(path / "controlnet_canny/config.json", cross_attention_dim=16, global_pool_conditions=True)
    assert rejection(path).startswith("controlnet_canny/config.json: global_pool_conditions: ")


def test_lora_names(sd: Path) -> None:
    write_lora(sd, "ink_2.0", seed=1)
    assert list(read_folder(sd).loras) == ["ink_2.0"]
    write_lora(sd, "a name", seed=1)
    assert rejection(sd).startswith("loras/a name.safetensors: use letters")


def test_loras_need_a_text_model(folder_of: FolderOf, tmp_path: Path) -> None:
    path = Path(copytree(folder_of("ddpm"), tmp_path / "ddpm"))
    write_lora(path, "ink", seed=1)
    assert rejection(path) == "loras: LoRAs need a text model"


def test_tokenizers(sd: Path) -> None:
    (sd / "tokenizer/tokenizer.json").unlink()
    assert rejection(sd).startswith("tokenizer: neither tokenizer.json")
    (sd / "tokenizer/vocab.json").write_text("{}")
    (sd / "tokenizer/merges.txt").write_bytes(b" " * ((16 << 20) + 1))
    assert rejection(sd).startswith("tokenizer/merges.txt: larger than")


def test_folders_from_before_0_9_say_32_for_64(sd: Path) -> None:
    edit_json(sd / "unet/config.json", _diffusers_version="0.2.2", sample_size=32)
    assert read_folder(sd).unet.config.height_width == (64, 64)
    edit_json(sd / "unet/config.json", _diffusers_version="0.10.0")
    assert read_folder(sd).unet.config.height_width == (32, 32)
