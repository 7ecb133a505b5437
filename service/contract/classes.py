"""Which class of a model a client's name or number means: the same rule for all fields and dialects."""

import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache

#: The name that means "no class": label K, one past the last class.
NO_CLASS = "none"

_WHOLE_NUMBER = re.compile(r"-?[0-9]+", re.ASCII)

_Keys = tuple[Callable[[str], Hashable | None], Mapping[Hashable, Sequence[int]]]


class ClassNotFound(LookupError):
    """A client's label matches no class of the model, or several: the ``candidates``."""

    def __init__(self, given: int | str, candidates: Sequence[int] = ()) -> None:
        super().__init__(given)
        self.candidates = candidates


def label_of(given: int | str, names: tuple[str, ...]) -> int:
    """The label of the class ``given`` among ``names``: 0 to K - 1, or K for ``NO_CLASS``. Raises ClassNotFound.

    An exact match precedes one that ignores case, which precedes one by number: "a" is class "a" even beside "A".
    Composed and decomposed accents are equal. A number, as number or text, is a name where any name is an integer ("2"
    equals "02"), else the index of a class.
    """
    text = str(given)
    for key_of, labels_by_key in _lookups(names):
        labels = labels_by_key.get(key_of(text), ())
        if len(labels) == 1:
            return labels[0]
        if labels:
            raise ClassNotFound(given, labels)
    raise ClassNotFound(given)


def has_numeric_names(names: Sequence[str]) -> bool:
    """Whether a number that a client sends is a class name rather than an index."""
    return any(_number(name) is not None for name in names)


@lru_cache(maxsize=256)
def _lookups(names: tuple[str, ...]) -> Sequence[_Keys]:
    """The comparisons, strictest first: how to make a key of a text, and the labels by key."""
    spelled = [*enumerate(names), (len(names), NO_CLASS)]
    numbered = spelled if has_numeric_names(names) else [(index, str(index)) for index in range(len(names))]
    return [
        (_composed, _grouped(_composed, spelled)),
        (_folded, _grouped(_folded, spelled)),
        (_number, _grouped(_number, numbered)),
    ]


def _grouped(
    key_of: Callable[[str], Hashable | None], pairs: Sequence[tuple[int, str]]
) -> Mapping[Hashable, Sequence[int]]:
    grouped: dict[Hashable, list[int]] = {}
    for label, name in pairs:
        if (key := key_of(name)) is not None:
            grouped.setdefault(key, []).append(label)
    return grouped


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _folded(text: str) -> str:
    """Normalised again because case folding can decompose characters (Unicode, section 3.13)."""
    return _composed(_composed(text).casefold())


def _number(text: str) -> int | None:
    return int(text) if _WHOLE_NUMBER.fullmatch(text) and len(text) <= 64 else None
