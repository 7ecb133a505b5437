import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import KeyInUse, KeyReused
from service.store.bounded import Bounds
from service.store.keys import ENTRY_BYTES, Key, KeyedAnswers
from tests.service.clock import Clock

ONE, TWO = Key("client", "one"), Key("client", "two")


def answers(most: int = 4, most_bytes: int = 1 << 20, keep_s: float = 600.0) -> tuple[KeyedAnswers[str], Clock]:
    clock = Clock()
    return KeyedAnswers(Bounds(most, most_bytes, keep_s), clock), clock


def test_a_request_is_answered_once_and_then_again() -> None:
    keyed, clock = answers()
    assert keyed.claim(ONE, b"body") is None
    with pytest.raises(KeyInUse):
        keyed.claim(ONE, b"body")
    with pytest.raises(KeyReused):
        keyed.claim(ONE, b"other")
    keyed.keep(ONE, "answer", 10)
    clock.now = 599.0
    assert keyed.claim(ONE, b"body") == "answer"
    with pytest.raises(KeyReused):
        keyed.claim(ONE, b"other")
    clock.now = 600.0
    assert keyed.claim(ONE, b"other") is None


def test_a_key_is_its_clients_own() -> None:
    keyed, _ = answers()
    assert keyed.claim(ONE, b"body") is None
    assert keyed.claim(Key("other client", "one"), b"other") is None


def test_a_request_without_an_answer_may_be_sent_again() -> None:
    keyed, _ = answers()
    for body in (b"body", b"other"):
        assert keyed.claim(ONE, body) is None
        keyed.release(ONE)


def test_only_so_many_are_answered_at_a_time() -> None:
    keyed, _ = answers(most=1)
    keyed.claim(ONE, b"body")
    with pytest.raises(KeyInUse):
        keyed.claim(TWO, b"body")
    keyed.keep(ONE, "answer", 1)
    assert keyed.claim(TWO, b"body") is None


@given(sizes=st.lists(st.integers(0, 3 * ENTRY_BYTES), min_size=1, max_size=12))
def test_the_oldest_answers_make_room(sizes: list[int]) -> None:
    most, most_bytes = 4, 6 * ENTRY_BYTES
    keyed, _ = answers(most, most_bytes)
    for number, size in enumerate(sizes):
        key = Key("client", str(number))
        assert keyed.claim(key, b"body") is None
        keyed.keep(key, str(number), size)
    fits, left = 0, most_bytes
    for size in reversed(sizes):
        left -= ENTRY_BYTES + size
        if left < 0 or fits == most:
            break
        fits += 1
    for number in reversed(range(len(sizes))):
        kept = keyed.claim(Key("client", str(number)), b"body") if number >= len(sizes) - most else None
        assert kept == (str(number) if number >= len(sizes) - fits else None)
