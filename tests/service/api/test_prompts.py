"""The embeddings of prompts that are kept."""

from types import SimpleNamespace
from typing import cast

import torch
from hypothesis import given
from hypothesis import strategies as st

from service.api.prompts import Embedding, PromptCache, Text
from service.engine.model import Model
from service.engine.rows import Adapter


def model(name: str = "sd", version: str = "01234567") -> Model:
    """What the cache reads of a model."""
    return cast(Model, SimpleNamespace(name=name, manifest=SimpleNamespace(version=version)))


def embedding(numbers: int = 100) -> Embedding:
    return Embedding({"context": torch.zeros(numbers)})


def test_a_text_is_known_by_model_version_prompt_and_lora() -> None:
    cache, kept, text = PromptCache(), embedding(), Text("a fox", Adapter("ink", 0.5))
    cache.keep(model(), text, kept)
    assert cache.read(model(), [text, text]).known == {text: kept}
    for other in (Text("a fox"), Text("a fox", Adapter("ink")), Text("a Fox", Adapter("ink", 0.5))):
        assert cache.read(model(), [other, other]).missing == [other]
    for owner in (model("xl"), model(version="76543210")):
        assert cache.read(owner, [text]).missing == [text]


def test_the_least_recently_used_is_dropped() -> None:
    cache = PromptCache(most_bytes=2000)
    for prompt in ("a", "b", "c"):
        cache.keep(model(), Text(prompt), embedding())
        cache.read(model(), [Text("a")])
    assert [*cache.read(model(), [Text("a"), Text("b"), Text("c")]).known] == [Text("a"), Text("c")]


@given(st.lists(st.tuples(st.text(max_size=50), st.integers(0, 500)), max_size=40), st.integers(0, 5000))
def test_its_bytes_are_bounded(texts: list[tuple[str, int]], most_bytes: int) -> None:
    cache = PromptCache(most_bytes)
    for prompt, numbers in texts:
        cache.keep(model(), Text(prompt), embedding(numbers))
        assert cache.nbytes <= most_bytes
    known = cache.read(model(), [Text(prompt) for prompt, _ in texts]).known
    assert sum(each.nbytes for each in known.values()) <= cache.nbytes
