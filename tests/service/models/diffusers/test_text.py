from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from service.models.diffusers.networks import Networks
from tests.service.models.diffusers.conftest import load
from tests.service.models.diffusers.tiny import TOKENS, edit_json, vocabulary

NetworksOf = Callable[[str], Networks]
PipeOf = Callable[[str], Any]
START, END = 512, 513


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("prompt", ["", "a cat", "Ünïcode 日本", "x" * 100, "tab\tand\x00null"])
def test_prompts_are_encoded_as_the_pipeline_does(
    networks_of: NetworksOf, pipe_of: PipeOf, name: str, prompt: str
) -> None:
    networks, pipe = networks_of(name), pipe_of(name)
    ours = networks.encode_text(networks.tokenize(prompt).ids[None])
    options = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    with torch.no_grad():
        theirs = pipe.encode_prompt(prompt, **options)
    assert torch.equal(ours["context"], theirs[0])
    if name == "sdxl":
        assert torch.equal(ours["pooled"], theirs[2])


@pytest.mark.parametrize("negative", [None, "", "blurry"])
def test_negative_prompts(networks_of: NetworksOf, pipe_of: PipeOf, negative: str | None) -> None:
    networks = networks_of("sdxl")
    assert networks.text is not None
    zeros = networks.text.no_negative()
    assert zeros is not None
    with torch.no_grad():
        _, context, _, pooled = pipe_of("sdxl").encode_prompt("a cat", device="cpu", negative_prompt=negative)
    if negative is None:
        assert torch.equal(zeros["context"], context[0])
        assert torch.equal(zeros["pooled"], pooled[0])
        return
    ours = networks.encode_text(networks.tokenize(negative).ids[None])
    assert torch.equal(ours["context"], context)
    assert torch.equal(ours["pooled"], pooled)


def test_without_sdxl_the_empty_prompt_is_the_negative(networks_of: NetworksOf) -> None:
    text = networks_of("sd").text
    assert text is not None
    assert text.no_negative() is None


def test_prompts_are_padded_with_each_tokenizers_token(networks_of: NetworksOf) -> None:
    first, second = networks_of("sdxl").tokenize("a").ids.tolist()
    assert first == [START, vocabulary()["a</w>"], END, *[END] * (TOKENS - 3)]
    assert second == [START, vocabulary()["a</w>"], END, *[vocabulary()["!</w>"]] * (TOKENS - 3)]


def test_what_does_not_fit_is_reported(networks_of: NetworksOf) -> None:
    fits, longer = networks_of("sd").tokenize("abcdefghijklmn"), networks_of("sd").tokenize("abcdefghijklmnop qr")
    assert fits.dropped == ""
    assert longer.dropped == "op qr"
    assert longer.ids[0, -1] == END
    assert torch.equal(fits.ids[0, : TOKENS - 2], longer.ids[0, : TOKENS - 2])


def test_half_of_a_surrogate_pair(networks_of: NetworksOf) -> None:
    with pytest.raises(ValueError, match="surrogate"):
        networks_of("sd").tokenize("a\ud800")


@given(st.text(max_size=300))
def test_any_text_is_a_prompt(networks_of: NetworksOf, prompt: str) -> None:
    ids = networks_of("sd").tokenize(prompt).ids
    assert ids.shape == (1, TOKENS)
    assert ids[0, 0] == START
    assert 0 <= int(ids.min()) <= int(ids.max()) <= END


def test_ten_thousand_characters(networks_of: NetworksOf) -> None:
    tokens = networks_of("sd").tokenize("word " * 2000)
    assert len(tokens.dropped) > 9000


def test_prompts_of_one_batch_do_not_mix(networks_of: NetworksOf) -> None:
    networks = networks_of("sdxl")
    ids = torch.stack([networks.tokenize(prompt).ids for prompt in ("a", "two words", "")])
    together = networks.encode_text(ids)
    for row in range(3):
        for name, value in networks.encode_text(ids[[row]]).items():
            torch.testing.assert_close(together[name][row], value[0], rtol=1e-5, atol=1e-6)


def test_threads_share_a_tokenizer(networks_of: NetworksOf) -> None:
    networks = networks_of("sdxl")
    prompts = ["", "a cat", "x" * 50, "two words"] * 10
    expected = [networks.tokenize(prompt).ids for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = [tokens.ids for tokens in pool.map(networks.tokenize, prompts)]
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_tokenizer_may_say_how_many_tokens_are_used(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(copytree(folder_of("sd"), tmp_path / "sd"))
    edit_json(path / "tokenizer/tokenizer_config.json", model_max_length=10)
    networks = load(path)
    tokens = networks.tokenize("abcdefghij")
    assert (tokens.ids.shape, tokens.dropped) == ((1, 10), "ij")
    assert networks.input_shapes(16, 16)["context"] == networks.encode_text(tokens.ids[None])["context"][0].shape
