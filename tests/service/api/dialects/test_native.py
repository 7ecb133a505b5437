from pathlib import Path

import pytest
from pydantic import ValidationError

from service.api.dialects.native import DialectRequest, class_of_prompt, scale_of, with_native
from service.contract.manifest import Manifest
from service.errors import BadRequest
from tests.service.artefacts import write_one_shot


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    weights: Path = tmp_path_factory.mktemp("native") / "weights"
    return write_one_shot(weights).model_copy(update={"image_shape": (1, 4, 8)})


@pytest.mark.parametrize(
    ("prompt", "label"),
    [("bag", "bag"), (" T-Shirt\n", "t-shirt"), ("1", "trouser"), ("", "none"), ("  ", "none"), ("None", "none")],
)
def test_a_prompt_is_a_class(manifest: Manifest, prompt: str, label: str) -> None:
    assert class_of_prompt(prompt, manifest) == label


@pytest.mark.parametrize("prompt", ["a bag", "3", "-1", "shirt", "\N{SUPERSCRIPT ONE}"])
def test_another_prompt_is_refused_with_the_classes(manifest: Manifest, prompt: str) -> None:
    with pytest.raises(BadRequest) as caught:
        class_of_prompt(prompt, manifest)
    assert caught.value.problems[0].pointer == "#/prompt"
    assert "0 t-shirt, 1 trouser, 2 bag" in caught.value.detail


@pytest.mark.parametrize(("size", "scale"), [((8, 4), 1), ((24, 12), 3), ((256, 128), 32)])
def test_a_size_is_a_whole_number_of_times_the_models(manifest: Manifest, size: tuple[int, int], scale: int) -> None:
    assert scale_of("size", *size, manifest) == scale


@pytest.mark.parametrize("size", [(0, 0), (4, 8), (8, 8), (9, 4), (264, 132), (7, 3)])
def test_another_size_is_refused(manifest: Manifest, size: tuple[int, int]) -> None:
    with pytest.raises(BadRequest) as caught:
        scale_of("size", *size, manifest)
    assert caught.value.problems[0].allowed == "8x4 times an integer up to 32"


class _Asked(DialectRequest):
    format: str = "own"


def test_shared_fields_are_checked_as_native_ones_and_only_given_ones_go_along() -> None:
    schema = with_native(_Asked, "n", "seed")
    asked = schema.model_validate({"n": 3, "format": "other"})
    native = asked.native(scale=2)
    assert native.model_fields_set == {"n", "scale"}
    assert (native.n, native.scale, native.format) == (3, 2, None)
    with pytest.raises(ValidationError):
        schema.model_validate({"n": 0})
    with pytest.raises(ValidationError):
        schema.model_validate({"steps": 3})
