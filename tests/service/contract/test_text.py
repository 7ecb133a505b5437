import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from service.contract.manifest import Manifest
from service.contract.text import MAX_WORDS_BYTES, Words, parse_words, words_file

SHA256 = hashlib.sha256(b"words").hexdigest()


@pytest.fixture
def text_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """The JSON of a valid manifest of a model with prompts and drawings."""
    words = {"file": words_file(SHA256), "size": 5, "sha256": SHA256}
    text = {"tokens": 24, "width": 128, "vocabulary": 4096, "words": words, "hint_shape": [1, 28, 28]}
    return fields | {"class_names": [], "text": text}


def parsed(fields: dict[str, Any]) -> Manifest:
    return Manifest.model_validate_json(json.dumps(fields))


def test_what_pictures_are_conditioned_on(text_fields: dict[str, Any]) -> None:
    manifest = parsed(text_fields)
    conditioning = manifest.conditioning
    assert conditioning is not None
    assert manifest.reads_prompts
    assert conditioning.text == {"context": (24, 128), "context_mask": (24,)}
    assert conditioning.inputs == {"hint": (1, 28, 28), "hint_scale": ()}
    assert (conditioning.controls, conditioning.words) == (("sketch",), 23)
    plain = parsed(text_fields | {"text": text_fields["text"] | {"hint_shape": None}}).conditioning
    assert plain is not None
    assert (plain.inputs, plain.controls, "control" in plain.tasks) == ({}, (), False)


def test_a_model_with_classes_reads_no_prompts(manifest: Manifest) -> None:
    assert manifest.conditioning is None
    assert not manifest.reads_prompts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tokens": 1}, "greater than or equal to 2"),
        ({"tokens": 24.5}, "integer"),
        ({"width": 0}, "greater than or equal to 1"),
        ({"vocabulary": 1 << 21}, "less than or equal to"),
        ({"unknown_words": "kept"}, "ignored"),
        ({"hint_shape": [3, 28, 28]}, "not one channel of the pictures"),
        ({"hint_shape": [1, 14, 28]}, "not one channel of the pictures"),
        ({"words": {"file": "../words.json", "size": 5, "sha256": SHA256}}, "pattern"),
        ({"words": {"file": words_file("0" * 64), "size": 5, "sha256": SHA256}}, "not named by its sha256"),
        ({"words": {"file": words_file(SHA256), "size": MAX_WORDS_BYTES + 1, "sha256": SHA256}}, "less than or equal"),
        ({"language": "en"}, "Extra inputs"),
    ],
)
def test_invalid_text_is_rejected(change: dict[str, Any], reason: str, text_fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=reason):
        parsed(text_fields | {"text": text_fields["text"] | change})


@pytest.mark.parametrize("change", [{"class_names": ["shirt"]}, {"latent_shape": [4, 7, 7]}, {"family": "ldm"}])
def test_text_is_of_diffusion_of_pictures_without_classes(change: dict[str, Any], text_fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="text is allowed for"):
        parsed(text_fields | change)


def test_only_a_model_with_prompts_has_a_golden_prompt(fields: dict[str, Any], text_fields: dict[str, Any]) -> None:
    golden = {
        "seed": 0,
        "class_label": 0,
        "steps": 4,
        "solver": "ddim",
        "picture": "A" * 1044 + "AA==",
        "prompt": "fox",
    }
    golden["picture"] = "AAAA" * (784 // 3) + "AA=="
    assert parsed(text_fields | {"golden": golden}).golden is not None
    with pytest.raises(ValidationError, match=r"golden\.prompt"):
        parsed(fields | {"golden": golden})


def test_words_are_read_back() -> None:
    words = Words(tokenizer={"model": {"vocab": {"red": 3}}}, pictographs={"\u2764": "red heart"})
    assert parse_words(words.model_dump_json().encode()) == words


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"[]", "object"), (b"\xff", "JSON"), (b'{"tokenizer": [], "pictographs": {}}', "tokenizer: ")],
)
def test_other_bytes_are_no_words(payload: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        parse_words(payload)
    assert "\n" not in str(caught.value)
