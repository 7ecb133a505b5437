from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.trainer.conftest import MakeTextConfig
from trainer.config import RunConfig
from trainer.export import ExportError, averaged_parts, compare, load, script
from trainer.generate import pictures_of
from trainer.models.text_parts import TextParts, prompted, random_text_inputs
from trainer.run import checkpoint
from trainer.run.loop import TrainingRun
from trainer.text.tokenizer import tokenize

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def parts(text_run: TrainingRun) -> TextParts:
    read = averaged_parts(*checkpoint.load(text_run.folder))
    assert isinstance(read, TextParts)
    return read


@pytest.fixture(scope="module", autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_a_checkpoint_has_all_that_prompts_need(text_run: TrainingRun, parts: TextParts) -> None:
    trained = text_run.objective.parts(text_run.ema.module)
    assert isinstance(trained, TextParts)
    assert parts.tokenizer.to_str() == trained.tokenizer.to_str()
    pictures = [pictures_of(each, ["red heart"], [3], CPU).int() for each in (parts, trained)]
    torch.testing.assert_close(*pictures, atol=1, rtol=0)  # they lie differently in memory, and sum in another order


def test_torchscript_computes_the_same(parts: TextParts) -> None:
    scripted = load(script(parts), parts)
    assert isinstance(scripted, TextParts)
    compare(parts, scripted)
    assert torch.equal(*(pictures_of(each, ["red heart", "cook"], [3, 4], CPU) for each in (parts, scripted)))


def test_a_part_that_computes_something_else_is_refused(parts: TextParts, make_text_config: MakeTextConfig) -> None:
    other = load(script(parts), parts)
    assert other.denoise is not None
    for weight in other.denoise.parameters():
        weight.add_(0.1)
    with pytest.raises(ExportError, match="the scripted denoise differs"):
        compare(parts, other)


def test_what_stands_behind_a_captions_end_does_not_matter(parts: TextParts) -> None:
    inputs = random_text_inputs(parts, 7, torch.Generator().manual_seed(0))
    tokens, mask = inputs["encode_text"]
    assert not mask.all()
    context, other = parts.encode_text(tokens, mask), parts.encode_text(tokens.where(mask, 1), mask)
    torch.testing.assert_close(context[mask], other[mask])
    x, t, _, _ = inputs["denoise"]
    assert parts.denoise is not None
    garbage = torch.where(mask[:, :, None], context, 1e3)
    torch.testing.assert_close(parts.denoise(x, t, context, mask), parts.denoise(x, t, garbage, mask))


def test_every_token_of_a_caption_matters(parts: TextParts) -> None:
    """To the network before any training: after little of it, the effect of a token is small."""
    tokens, mask = tokenize(parts.tokenizer, ["woman cook dark skin tone"], parts.tokens)
    for place in range(1, int(mask.sum())):
        other = tokens.clone()
        other[0, place] = 7
        assert not torch.equal(parts.encode_text(tokens, mask), parts.encode_text(other, mask))


def test_prompts_become_labels_and_the_last_is_no_caption(parts: TextParts) -> None:
    plain = prompted(parts, ["red heart", "cook"], CPU)
    assert plain.classes == 2
    x, t = torch.randn(1, *parts.latent_shape), torch.tensor([0.5])
    assert plain.denoise is not None
    assert parts.denoise is not None
    tokens, mask = tokenize(parts.tokenizer, [""], parts.tokens)
    wanted = parts.denoise(x, t, parts.encode_text(tokens, mask), mask)
    torch.testing.assert_close(plain.denoise(x, t, torch.tensor([2])), wanted)


@pytest.mark.parametrize("prediction", ["x_start", "velocity"])
def test_the_first_prediction_of_x_start_is_that_of_a_network_that_gives_zero(
    prediction: str, make_text_config: MakeTextConfig, text_run: TrainingRun
) -> None:
    config = make_text_config()
    model = config.model.model_copy(update={"prediction": prediction})
    run = TrainingRun(
        RunConfig.model_validate(config.model_dump() | {"model": model}), text_run.data, text_run.folder, CPU
    )
    fresh = run.objective.parts(run.objective.generator)
    assert fresh.denoise is not None
    assert isinstance(fresh, TextParts)
    x, t, context, mask = random_text_inputs(fresh, 3, torch.Generator().manual_seed(0))["denoise"]
    wanted = torch.zeros_like(x) if prediction == "x_start" else x
    torch.testing.assert_close(fresh.denoise(x, t, context, mask), wanted)


def test_the_weight_of_a_token_leads_from_padding_to_a_token_without_a_jump(parts: TextParts) -> None:
    x, t, context, mask = random_text_inputs(parts, 1, torch.Generator().manual_seed(0))["denoise"]
    mask = torch.zeros_like(mask)
    mask[:, :2] = 1.0

    def with_weight(weight: float) -> Tensor:
        weights = mask.clone()
        weights[:, 2] = weight
        assert parts.denoise is not None
        predicted: Tensor = parts.denoise(x, t, context, weights)
        return predicted

    path = [with_weight(share / 20) for share in range(21)]
    whole = (path[0] - path[-1]).abs().max()
    assert whole > 0
    assert max((before - after).abs().max() for before, after in pairwise(path)) < whole / 2
