import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.contract.classes import ClassNotFound, has_numeric_names, label_of

ACCENTS = ("caf\u00e9", "cafe\u0301s")
NUMBERS = ("1", "2", "10")


@pytest.mark.parametrize(
    ("asked", "names", "label"),
    [
        ("a", ("A", "a"), 1),
        ("A", ("A", "a"), 0),
        ("BAG", ("shoe", "bag"), 1),
        ("STRASSE", ("Straße", "x"), 0),
        ("none", ("bag",), 1),
        ("None", ("bag",), 1),
        ("None", ("None", "bag"), 0),
        ("none", ("None", "bag"), 2),
        ("cafe\u0301", ACCENTS, 0),
        ("CAF\u00c9S", ACCENTS, 1),
        (0, ("shoe", "bag"), 0),
        ("1", ("shoe", "bag"), 1),
        ("01", ("shoe", "bag"), 1),
        (2, NUMBERS, 1),
        ("2", NUMBERS, 1),
        ("02", NUMBERS, 1),
        (10, NUMBERS, 2),
        (7, ("7", "007"), 0),
        ("007", ("7", "007"), 1),
        (-1, ("-1", "1"), 0),
        (7, ("bag", "7"), 1),
    ],
)
def test_a_class_is_found(asked: int | str, names: tuple[str, ...], label: int) -> None:
    assert label_of(asked, names) == label


@pytest.mark.parametrize(
    ("asked", "names"),
    [
        ("", ("bag",)),
        ("bag ", ("bag",)),
        (1, ("bag",)),
        (-1, ("bag",)),
        ("-1", ("bag",)),
        ("\N{SUPERSCRIPT ONE}", ("shoe", "bag")),
        ("0x0", ("bag",)),
        (0, NUMBERS),
        ("0", NUMBERS),
        (0, ("bag", "7")),
        (0, ()),
        ("9" * 5000, ("bag",)),
    ],
)
def test_an_unknown_class(asked: int | str, names: tuple[str, ...]) -> None:
    with pytest.raises(ClassNotFound) as caught:
        label_of(asked, names)
    assert not caught.value.candidates


@pytest.mark.parametrize(
    ("asked", "names", "candidates"),
    [
        ("bag", ("Bag", "BAG", "shoe"), [0, 1]),
        ("NONE", ("None", "shoe"), [0, 2]),
        ("none", ("none", "shoe"), [0, 2]),
        ("caf\u00e9", ("caf\u00e9", "cafe\u0301"), [0, 1]),
        (7, ("07", "007"), [0, 1]),
    ],
)
def test_an_ambiguous_class(asked: int | str, names: tuple[str, ...], candidates: list[int]) -> None:
    with pytest.raises(ClassNotFound) as caught:
        label_of(asked, names)
    assert caught.value.candidates == candidates


@given(names=st.lists(st.text("aAß1 2é\u0301", min_size=1), unique=True), asked=st.integers(-3, 12))
def test_a_number_means_the_same_as_a_number_and_as_text(names: list[str], asked: int) -> None:
    def found(label: int | str) -> tuple[int, ...]:
        try:
            return (label_of(label, tuple(names)),)
        except ClassNotFound as failure:
            return tuple(failure.candidates)

    assert found(asked) == found(str(asked))
    if has_numeric_names(names):
        assert all(int(names[label]) == asked for label in found(asked))
