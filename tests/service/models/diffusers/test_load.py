import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.contract.files import ContractError
from service.models.diffusers import libraries
from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import read_folder
from service.models.diffusers.load import load_networks
from service.models.diffusers.networks import Networks
from tests.service.models.diffusers.conftest import CPU, load
from tests.service.models.diffusers.tiny import NAMES, edit_json, write_lora

FolderOf = Callable[[str], Path]
NetworksOf = Callable[[str], Networks]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"


@pytest.fixture
def sd(folder_of: FolderOf, tmp_path: Path) -> Path:
    return Path(copytree(folder_of("sd"), tmp_path / "sd"))


def predictions(networks: Networks) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 16, 16, generator=generator)
    return networks.denoise(x, torch.tensor([3, 700]), {"context": context})


@pytest.mark.parametrize("name", NAMES)
def test_nothing_asks_for_a_network(
    folder_of: FolderOf, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(copytree(folder_of(name), tmp_path / name))
    if name == "sd":
        write_lora(path, "ink", seed=1, text=True)
    asked: list[Any] = []

    def refuse(*args: Any, **_kwargs: Any) -> None:
        asked.append(args)
        raise OSError("no network")

    for function in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, function, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    networks = load(path)
    if networks.text is not None:
        networks.tokenize("x" * 100)
    assert asked == []


def test_a_missing_library_is_named_with_the_command(sd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = read_folder(sd)
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(ContractError, match=r"needs the package peft: pip install 'genserve\[diffusers\]'"):
        load_networks(folder, CPU, torch.float32)


def test_checking_a_folder_imports_no_library() -> None:
    modules = "from service.models.diffusers import card, folder"
    script = f"import sys; {modules}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "diffusers", "transformers", "peft"} & set(loaded)


def change(path: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    save_file(edit(load_file(path)), path)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda state: {name: tensor for name, tensor in state.items() if name != "conv_in.weight"}, "is missing"),
        (lambda state: {**state, "extra": torch.ones(1)}, "extra is not part of config.json"),
        (lambda state: {**state, "conv_in.bias": torch.ones(3)}, r"conv_in.bias is \(3,\), not \(16,\)"),
    ],
)
def test_weights_that_do_not_fit(sd: Path, edit: Callable[[dict[str, Tensor]], dict[str, Tensor]], reason: str) -> None:
    change(sd / UNET, edit)
    with pytest.raises(FolderError, match=f"{UNET}: .*{reason}"):
        load(sd)


def test_a_configuration_that_builds_no_network(sd: Path) -> None:
    edit_json(sd / "unet/config.json", down_block_types=["NoBlock2D", "DownBlock2D"])
    with pytest.raises(FolderError, match=r"unet/config.json: ValueError: .*NoBlock2D"):
        load(sd)


def test_a_vocabulary_that_is_larger_than_the_encoders(sd: Path) -> None:
    edit_json(sd / "text_encoder/config.json", vocab_size=500)
    change(sd / TEXT, lambda state: {k: v[:500].clone() if "token_embedding" in k else v for k, v in state.items()})
    with pytest.raises(FolderError, match="tokenizer: token 513, but the text encoder has 500"):
        load(sd)


def test_a_tokenizer_that_cannot_be_built(sd: Path) -> None:
    edit_json(sd / "tokenizer/tokenizer.json", model={"type": "Unknown"})
    with pytest.raises(FolderError, match="tokenizer: "):
        load(sd)


def test_shards_and_half_precision(sd: Path, networks_of: NetworksOf) -> None:
    state = load_file(sd / UNET)
    (sd / UNET).unlink()
    names = sorted(state)
    files = [f"diffusion_pytorch_model-0000{index}-of-00002.safetensors" for index in (1, 2)]
    for file, part in zip(files, (names[:50], names[50:]), strict=True):
        save_file({name: state[name] for name in part}, sd / "unet" / file)
    weight_map = {name: files[name not in names[:50]] for name in names}
    index = sd / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text("{}")
    edit_json(index, weight_map=weight_map)
    assert torch.equal(predictions(load(sd)), predictions(networks_of("sd")))


def test_a_file_of_half_precision_computes_in_the_asked_type(sd: Path, networks_of: NetworksOf) -> None:
    change(sd / UNET, lambda state: {name: tensor.half() for name, tensor in state.items()})
    found = predictions(load(sd))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, predictions(networks_of("sd")), rtol=0, atol=0.05)
    assert not torch.equal(found, predictions(networks_of("sd")))


def test_names_of_older_versions(sd: Path, networks_of: NetworksOf) -> None:
    """The first versions named the layers of a VAE's attention otherwise, and nested the text encoder."""
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(state: dict[str, Tensor]) -> dict[str, Tensor]:
        renamed = {}
        for name, tensor in state.items():
            for new, old in older.items():
                name = name.replace(f".{new}.", f".{old}.") if "attentions" in name else name
            renamed[name] = tensor
        return renamed

    assert rename(load_file(sd / VAE)).keys() != load_file(sd / VAE).keys()
    change(sd / VAE, rename)
    change(sd / TEXT, lambda state: {f"text_model.{name.removeprefix('text_model.')}": v for name, v in state.items()})
    change(sd / TEXT, lambda state: {**state, "text_model.embeddings.position_ids": torch.arange(16)[None]})
    networks, plain = load(sd), networks_of("sd")
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(networks.decode(latent), plain.decode(latent))
    ids = plain.tokenize("a cat").ids[None]
    assert torch.equal(networks.encode_text(ids)["context"], plain.encode_text(ids)["context"])


def test_a_replaced_file_does_not_change_a_loaded_model(sd: Path) -> None:
    networks = load(sd)
    before = predictions(networks)
    (sd / UNET).write_bytes(b"")  # in place: a mapped file would end the process
    assert torch.equal(predictions(networks), before)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"steps_offset": 0, "clip_sample": True}, {"steps_offset": 1, "clip_sample": False}),
        ({"set_alpha_to_one": True}, {"set_alpha_to_one": True, "timestep_spacing": "leading"}),
    ],
)
def test_the_scheduler_is_corrected_as_the_pipeline_does(
    sd: Path, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    edit_json(sd / "scheduler/scheduler_config.json", **fields)
    scheduler = load(sd).scheduler
    assert {name: scheduler[name] for name in expected} == expected
    assert scheduler["_class_name"] == "DDIMScheduler"


def test_the_scheduler_is_that_of_diffusers_pipeline(networks_of: NetworksOf, pipe_of: Callable[[str], Any]) -> None:
    for name in NAMES:
        ours, theirs = dict(networks_of(name).scheduler), dict(pipe_of(name).scheduler.config)
        assert {key: value for key, value in ours.items() if key in theirs} == {
            key: value for key, value in theirs.items() if key in ours
        }


def test_bfloat16(folder_of: FolderOf, networks_of: NetworksOf) -> None:
    for name in ("sd", "sdxl", "control", "lcm", "inpaint9"):
        exact, half = networks_of(name), load_networks(read_folder(folder_of(name)), CPU, torch.bfloat16)
        shapes = exact.input_shapes(16, 16)
        inputs = {
            key: torch.rand(2, *shape, generator=torch.Generator().manual_seed(1)) for key, shape in shapes.items()
        }
        x = torch.randn(2, *exact.latent_shape(16, 16), generator=torch.Generator().manual_seed(2))
        ours = half.denoise(x, torch.tensor([9, 900]), inputs)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact.denoise(x, torch.tensor([9, 900]), inputs), rtol=0.1, atol=0.2)
        assert half.decode(x).dtype == torch.float32
