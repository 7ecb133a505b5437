import json
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.artifact import write_words
from service.contract.files import ContractError
from service.contract.text import PADDING, TextModel, WordsFile
from service.models.words import EXAMPLES, Words, load_words
from tests.service.artefacts import PICTOGRAPHS, TOKENS, VOCABULARY, text_tokenizer

WORDS = Words(text_tokenizer(), PICTOGRAPHS, TOKENS)


def text_of(words: WordsFile) -> TextModel:
    return TextModel(tokens=TOKENS, width=4, vocabulary=len(VOCABULARY), words=words)


def read(prompt: str) -> str:
    """The words that are read of ``prompt``."""
    (ids,) = WORDS.tokenize(prompt).ids.tolist()
    return " ".join(VOCABULARY[token] for token in ids if token != PADDING)


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("", "[START]"),
        ("Red, HEART!", "[START] red heart"),
        ("\u2764", "[START] red heart"),
        ("\u2764\ufe0f\u2764", "[START] red heart red heart"),
        ("green\u2764apple", "[START] green red heart apple"),
        ("\U0001f1ee\U0001f1ea", "[START] flag ireland"),
        ("\U0001f469\u200d\u2764\ufe0f", "[START] woman apple"),
        ("\U0001f469\u200d red", "[START] woman red"),
        ("a red fox", "[START] red"),
    ],
)
def test_what_is_read(prompt: str, words: str) -> None:
    assert read(prompt) == words
    assert WORDS.tokenize(prompt).ids.shape == (1, TOKENS)


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("red heart", ()),
        ("a Fox, a fox and a red fox", ("a", "Fox", "fox", "and")),
        ("\U0001f98a \U0001fabf \U0001f1eb red", ("\U0001f98a", "\U0001fabf", "\U0001f1eb")),
        ("red" * 40, ("red" * 40,)),
    ],
)
def test_what_is_unknown(prompt: str, unknown: tuple[str, ...]) -> None:
    assert WORDS.tokenize(prompt).unknown == unknown


def test_examples_are_short_names_of_known_words() -> None:
    """Neither arrows nor flags, nor names with an unknown word; spread evenly, at most `EXAMPLES`."""
    assert WORDS.examples() == ("woman",)
    colours = [f"{first} {second}" for first in ("red", "green") for second in ("heart", "apple", "flag", "woman")]
    names = {
        chr(0x1F300 + place): colour for place, colour in enumerate([*colours, "red fox", "red " * 9, "flag: red"])
    }
    names |= {"\u2190": "red", chr(0x1F400): "red heart"}
    assert Words(text_tokenizer(), names, TOKENS).examples() == tuple(colours)


def test_examples_are_spread_over_all_names() -> None:
    pairs = [" ".join(pair) for pair in product(VOCABULARY[3:], repeat=2)]
    examples = Words(
        text_tokenizer(), {chr(0x1F300 + place): pair for place, pair in enumerate(pairs)}, TOKENS
    ).examples()
    places = [pairs.index(example) for example in examples]
    assert len(places) == EXAMPLES
    assert {after - before for before, after in pairwise(places)} == {2}


def test_unknown_words_take_no_place() -> None:
    prompt = "one two red three four five heart six green seven apple flag"
    assert read(prompt) == "[START] red heart green apple flag"
    assert WORDS.tokenize(prompt).dropped == ""


def test_what_does_not_fit_is_dropped_with_its_unknown_words() -> None:
    tokens = WORDS.tokenize("red, red red red tiny red green fox")
    assert tokens.dropped == "green fox"
    assert tokens.unknown == ("tiny",)


@given(st.text())
def test_any_text_is_read(prompt: str) -> None:
    (ids,) = WORDS.tokenize(prompt).ids.tolist()
    assert ids[0] == VOCABULARY.index("[START]")
    assert set(ids) <= {*range(len(VOCABULARY))} - {VOCABULARY.index("[UNK]")}


def test_half_of_a_surrogate_pair() -> None:
    with pytest.raises(ValueError, match="surrogate"):
        WORDS.tokenize("\ud83d")


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "Invalid JSON"),
        (b'{"tokenizer": {}}', "pictographs: Field required"),
        (b'{"tokenizer": {}, "pictographs": {}}', "not a file of words"),
        (b'{"tokenizer": {}, "pictographs": {"a": 1}}', "pictographs.a: "),
        (json.dumps({"tokenizer": {}, "pictographs": {"a" * 33: "b"}}).encode(), "at most 32"),
        (json.dumps({"tokenizer": {}, "pictographs": {f"{n}": "b" for n in range(10_001)}}).encode(), "10000"),
    ],
)
def test_a_bad_file_is_rejected(payload: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=reason):
        load_words(tmp_path, text_of(write_words(tmp_path, payload)))


def test_a_tokenizer_without_a_start_is_rejected(tmp_path: Path) -> None:
    tokenizer = json.loads(text_tokenizer().to_str()) | {"post_processor": None}
    payload = json.dumps({"tokenizer": tokenizer, "pictographs": {}}).encode()
    with pytest.raises(ContractError, match="no token for unknown words"):
        load_words(tmp_path, text_of(write_words(tmp_path, payload)))


def test_a_changed_file_is_rejected(tmp_path: Path) -> None:
    words = write_words(tmp_path, json.dumps({"tokenizer": {}, "pictographs": {}}).encode())
    path = tmp_path / words.file
    path.write_bytes(path.read_bytes().replace(b"{}", b"[]", 1))
    with pytest.raises(ContractError, match="SHA-256"):
        load_words(tmp_path, text_of(words))


def test_a_token_that_the_encoder_lacks_is_rejected(tmp_path: Path) -> None:
    payload = json.dumps({"tokenizer": json.loads(text_tokenizer().to_str()), "pictographs": {}}).encode()
    text = text_of(write_words(tmp_path, payload))
    assert load_words(tmp_path, text).tokenize("ireland").ids[0, 1] == 8
    with pytest.raises(ContractError, match="token 9, but the text encoder has 9"):
        load_words(tmp_path, text.model_copy(update={"vocabulary": 9}))
