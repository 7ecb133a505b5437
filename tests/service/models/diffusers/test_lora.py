from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from service.engine.rows import Adapter
from service.models.diffusers.files import FolderError
from service.models.diffusers.networks import Networks
from tests.service.models.diffusers.conftest import load
from tests.service.models.diffusers.tiny import diffusers_class, write_lora, write_xl_lora

FolderOf = Callable[[str], Path]
STYLES = ("ink", "my.style-v1")


@pytest.fixture(scope="module")
def folder(folder_of: FolderOf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder sd with two LoRAs, the second also of the text encoder."""
    path = tmp_path_factory.mktemp("loras") / "sd"
    copytree(folder_of("sd"), path)
    write_lora(path, STYLES[0], seed=1)
    write_lora(path, STYLES[1], seed=2, rank=3, text=True)
    return path


@pytest.fixture(scope="module")
def networks(folder: Path) -> Networks:
    return load(folder)


def rows_of(count: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    context = torch.randn(count, 16, 16, generator=generator)
    return torch.randn(count, 4, 8, 8, generator=generator), torch.arange(count) * 150 + 3, {"context": context}


def test_every_row_equals_its_own_single_run(networks: Networks) -> None:
    adapters = [Adapter("ink"), None, Adapter("my.style-v1", 0.5), Adapter("ink", -0.25), Adapter("my.style-v1")]
    x, t, inputs = rows_of(len(adapters))
    together = networks.denoise(x, t, inputs, adapters)
    for row, adapter in enumerate(adapters):
        alone = networks.denoise(
            x[row : row + 1], t[row : row + 1], {"context": inputs["context"][row : row + 1]}, [adapter]
        )
        torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_the_loras_of_the_others(networks: Networks) -> None:
    x, t, inputs = rows_of(3)
    same = networks.denoise(x, t, inputs, [Adapter("ink", 0.7)] * 3)
    mixed = networks.denoise(x, t, inputs, [None, Adapter("ink", 0.7), Adapter("my.style-v1")])
    plain = networks.denoise(x, t, inputs)
    torch.testing.assert_close(mixed[1], same[1], rtol=1e-5, atol=1e-5)
    assert torch.equal(mixed[0], plain[0])
    assert not torch.allclose(mixed[1], plain[1], atol=1e-3)
    assert not torch.allclose(mixed[2], plain[2], atol=1e-3)


def test_rows_without_a_lora_are_those_of_a_folder_without_any(
    networks: Networks, networks_of: Callable[[str], Networks]
) -> None:
    x, t, inputs = rows_of(2)
    assert torch.equal(networks.denoise(x, t, inputs), networks_of("sd").denoise(x, t, inputs))


@pytest.mark.parametrize(("name", "scale"), [(STYLES[0], 1.0), (STYLES[1], 0.6)])
def test_diffusers_loads_the_same(folder: Path, networks: Networks, name: str, scale: float) -> None:
    pipe = diffusers_class("StableDiffusionPipeline").from_pretrained(folder, local_files_only=True)
    pipe.load_lora_weights(folder / "loras", weight_name=f"{name}.safetensors", adapter_name="style")
    pipe.set_adapters("style", scale)
    x, t, _ = rows_of(2)
    tokens = torch.stack([networks.tokenize(prompt).ids for prompt in ("one", "two")])
    inputs = networks.encode_text(tokens, [Adapter(name, scale)] * 2)
    with torch.no_grad():
        context = pipe.text_encoder(tokens[:, 0])[0]
        theirs = pipe.unet(x, t, encoder_hidden_states=context).sample
    torch.testing.assert_close(inputs["context"], context, rtol=1e-5, atol=1e-5)
    ours = networks.denoise(x, t, inputs, [Adapter(name, scale)] * 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_lora_of_the_text_encoder_changes_its_own_rows_only(networks: Networks) -> None:
    ids = networks.tokenize("a cat").ids[None].repeat(3, 1, 1)
    rows = networks.encode_text(ids, [None, Adapter("my.style-v1"), Adapter("ink")])["context"]
    plain = networks.encode_text(ids)["context"]
    assert torch.equal(rows[0], plain[0])
    assert torch.equal(rows[2], plain[2])
    assert not torch.allclose(rows[1], plain[1], atol=1e-3)


def test_unknown_names_and_wrong_counts(networks: Networks) -> None:
    x, t, inputs = rows_of(2)
    with pytest.raises(KeyError, match="oil"):
        networks.denoise(x, t, inputs, [Adapter("oil"), None])
    with pytest.raises(ValueError, match="1 adapters for 2 rows"):
        networks.denoise(x, t, inputs, [None])


def test_a_call_after_a_failed_one_has_no_loras(networks: Networks) -> None:
    x, t, inputs = rows_of(2)
    plain = networks.denoise(x, t, inputs)
    with pytest.raises(RuntimeError):
        networks.denoise(x, t, {"context": inputs["context"][..., :3]}, [Adapter("ink")] * 2)
    assert torch.equal(networks.denoise(x, t, inputs), plain)


def renamed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {name.replace("unet.", prefix): tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (renamed("transformer."), "of no network"),
        (renamed("unet.another_block."), "fit"),
        (lambda state: {name: tensor[:, :1] for name, tensor in state.items()}, "does not fit the model"),
        (lambda state: {**state, "unet.conv_in.dora_scale": torch.ones(1)}, "only plain LoRAs"),
        (lambda state: {"unet.x.lora_A.weight": torch.ones(2000, 1025)}, "rank"),
    ],
)
def test_files_that_are_no_lora_of_this_model(
    folder_of: FolderOf, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], reason: str
) -> None:
    path = tmp_path / "sd"
    copytree(folder_of("sd"), path)
    file = write_lora(path, "bad", seed=1)
    save_file({name: tensor.contiguous() for name, tensor in change(load_file(file)).items()}, file)
    with pytest.raises(FolderError, match=reason) as caught:
        load(path)
    assert str(file) in str(caught.value)


def saved_by_diffusers(folder: Path, path: Path, alpha: float) -> Any:
    """Write a LoRA as a training script does: with its rank and scale in the metadata. Returns the UNet that has it."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    unet = diffusers_class("UNet2DConditionModel").from_pretrained(folder / "unet", local_files_only=True)
    config = LoraConfig(r=2, lora_alpha=alpha, target_modules=["to_k", "to_v"], init_lora_weights=False)
    unet.add_adapter(config)

    diffusers_class("StableDiffusionPipeline").save_lora_weights(
        path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        weight_name="trained.safetensors",
        **_collate_lora_metadata({"unet": unet}),
    )
    return unet


def test_the_scale_of_a_file_is_in_its_metadata(folder_of: FolderOf, tmp_path: Path) -> None:
    path = tmp_path / "sd"
    copytree(folder_of("sd"), path)
    unet = saved_by_diffusers(path, path / "loras", alpha=7)
    x, t, inputs = rows_of(2)
    ours = load(path).denoise(x, t, inputs, [Adapter("trained")] * 2)
    with torch.no_grad():
        theirs = unet(x, t, encoder_hidden_states=inputs["context"]).sample
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("metadata", ['{"unet.r": 2, "unet.target_modules": "(a+)+$"}', "[[", '{"unet.r": "two"}'])
def test_metadata_that_is_no_rank(folder_of: FolderOf, tmp_path: Path, metadata: str) -> None:
    path = tmp_path / "sd"
    copytree(folder_of("sd"), path)
    file = write_lora(path, "bad", seed=1)
    save_file(load_file(file), file, metadata={"lora_adapter_metadata": metadata})
    with pytest.raises(FolderError, match="lora_adapter_metadata"):
        load(path)


def test_kohya_names(folder_of: FolderOf, tmp_path: Path) -> None:
    path = tmp_path / "sd"
    copytree(folder_of("sd"), path)
    module = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    generator = torch.Generator().manual_seed(1)
    state = {
        f"{module}.lora_down.weight": torch.randn(2, 16, generator=generator),
        f"{module}.lora_up.weight": torch.randn(16, 2, generator=generator),
        f"{module}.alpha": torch.tensor(1.0),
    }
    (path / "loras").mkdir()
    save_file(state, path / "loras/kohya.safetensors")
    x, t, inputs = rows_of(2)
    networks = load(path)
    pipe = diffusers_class("StableDiffusionPipeline").from_pretrained(path, local_files_only=True)
    pipe.load_lora_weights(path / "loras", weight_name="kohya.safetensors")
    with torch.no_grad():
        theirs = pipe.unet(x, t, encoder_hidden_states=inputs["context"]).sample
    ours = networks.denoise(x, t, inputs, [Adapter("kohya")] * 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, networks.denoise(x, t, inputs), atol=1e-3)


def test_both_text_encoders_of_sdxl(folder_of: FolderOf, tmp_path: Path) -> None:
    path = Path(copytree(folder_of("sdxl"), tmp_path / "sdxl"))
    write_xl_lora(path, "ink", seed=1)
    networks = load(path)
    pipe = diffusers_class("StableDiffusionXLPipeline").from_pretrained(path, local_files_only=True)
    pipe.load_lora_weights(path / "loras", weight_name="ink.safetensors", adapter_name="ink")
    with torch.no_grad():
        context, _, pooled, _ = pipe.encode_prompt("a cat", device="cpu", do_classifier_free_guidance=False)
    ids = networks.tokenize("a cat").ids[None].repeat(2, 1, 1)
    ours = networks.encode_text(ids, [None, Adapter("ink")])
    torch.testing.assert_close(ours["context"][1], context[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours["pooled"][1], pooled[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours["context"][0], context[0], atol=1e-3)
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    inputs = {**ours, "time_ids": networks.time_ids(16, 16).repeat(2, 1)}
    t, added = torch.tensor([3, 3]), {"text_embeds": ours["pooled"], "time_ids": inputs["time_ids"]}
    with torch.no_grad():
        theirs = pipe.unet(x, t, encoder_hidden_states=ours["context"], added_cond_kwargs=added).sample
    mixed = networks.denoise(x, t, inputs, [None, Adapter("ink")])
    torch.testing.assert_close(mixed[1], theirs[1], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(mixed[0], theirs[0], atol=1e-3)


def test_threads_do_not_see_each_others_rows(networks: Networks) -> None:
    x, t, inputs = rows_of(2)
    choices: list[Sequence[Adapter | None]] = [(), [Adapter("ink")] * 2, [None, Adapter("my.style-v1", 2.0)]] * 4
    expected = [networks.denoise(x, t, inputs, adapters) for adapters in choices]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda adapters: networks.denoise(x, t, inputs, adapters), choices))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
