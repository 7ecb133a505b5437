"""Text-to-image models that the trainer exported: loaded, described, and computed by the engine."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from service.contract.files import ContractError
from service.contract.manifest import Golden, read_manifest
from service.engine.inputs import Input
from service.engine.rows import RowSpec
from service.models.conditions import Control
from service.models.golden import check_golden, draw
from service.models.registry import described_model, load
from service.models.torchscript import load_model
from tests.service.artefacts import TOKENS, write_text
from tests.service.models.diffusers.served import Studio, studio

CPU = torch.device("cpu")
GOLDEN = Golden(seed=3, class_label=0, steps=4, solver="ddim", picture="", prompt="red heart")


def test_the_inputs_are_declared(tmp_path: Path) -> None:
    write_text(tmp_path, "emoji", sketches=True)
    manifest = read_manifest(tmp_path / "emoji")
    loaded = load(tmp_path / "emoji", CPU, manifest)
    told = described_model(tmp_path / "emoji", manifest)
    wanted = {
        "context": Input((TOKENS, 4), negative=True),
        "context_mask": Input((TOKENS,), negative=True),
        "hint": Input((1, 8, 8), optional=True),
        "hint_scale": Input((), optional=True),
    }
    assert loaded.inputs == told.inputs == wanted
    for model in (loaded, told):
        assert model.tokenize is not None
        assert model.tokenize("green fox").unknown == ("fox",)


def test_weights_in_float16_compute_in_float32(tmp_path: Path) -> None:
    model = load_model(tmp_path / write_text(tmp_path).name, CPU)
    assert model.encode_text is not None
    assert model.tokenize is not None
    read = model.encode_text(model.tokenize("red heart").ids[None])
    assert (read["context"].dtype, read["context_mask"].tolist()) == (torch.float32, [[1, 1, 1, 0, 0, 0]])


def test_without_a_word_nothing_is_nan(tmp_path: Path) -> None:
    """Warm-up draws any mask, and padding rows have none."""
    model = load_model(tmp_path / write_text(tmp_path).name, CPU)
    assert model.denoise is not None
    inputs = {"context": torch.zeros(2, TOKENS, 4), "context_mask": torch.zeros(2, TOKENS)}
    assert model.denoise(torch.zeros(2, 3, 8, 8), torch.ones(2), inputs).isfinite().all()


def test_the_golden_picture_is_of_its_prompt(tmp_path: Path) -> None:
    model = load_model(tmp_path / write_text(tmp_path).name, CPU)
    other = draw(model, GOLDEN.model_copy(update={"prompt": "green apple"}))
    assert not np.array_equal(draw(model, GOLDEN), other)
    check_golden(model)


@pytest.mark.parametrize("file", ["words", "artifact"])
def test_a_file_that_is_gone_is_reported(file: str, tmp_path: Path) -> None:
    manifest = write_text(tmp_path)
    assert manifest.text is not None
    named = {"words": manifest.text.words, "artifact": manifest.artifact}[file]
    (tmp_path / "emoji" / named.file).unlink()
    with pytest.raises(ContractError, match=named.file):
        load_model(tmp_path / "emoji", CPU)


def test_a_file_without_a_text_encoder_is_rejected(tmp_path: Path) -> None:
    manifest = write_text(tmp_path)
    with pytest.raises(ContractError, match="not a TorchScript artefact"):
        load_model(tmp_path / "emoji", CPU, manifest.model_copy(update={"capabilities": ("generate", "encode")}))


async def test_rows_share_forward_passes_and_keep_their_pictures(tmp_path: Path) -> None:
    """Guided, not guided, with a negative prompt, with a sketch, in other numbers of steps."""
    write_text(tmp_path, sketches=True)
    async with studio(tmp_path / "emoji", max_bucket=4) as (own, _):
        rows = [await row(own, seed) for seed in range(6)]
        alone = [(await own.pictures([each]))[0] for each in rows]
        together = await own.pictures(rows)
    for one, same in zip(alone, together, strict=True):
        assert one.std() > 1
        np.testing.assert_allclose(one.astype(int), same.astype(int), atol=1)
    assert len({one.tobytes() for one in alone}) == 6


async def row(own: Studio, seed: int) -> RowSpec:
    hint = torch.zeros(1, 8, 8)
    hint[:, 2:4] = 1
    given: dict[str, Any] = {} if seed % 2 else {"control": Control(hint, 0.5 + 0.1 * seed)}
    negative = "green" if seed == 4 else None
    prompt = ("red heart", "green apple", "", "flag ireland", "woman", "red")[seed]
    return await own.row(seed, prompt, negative, 1.0 if seed == 3 else 3.0, steps=2 + seed, **given)
