"""A block of memory with named arrays of doubles, which other processes can read while its owner adds to it.

A block consists of words of 8 bytes. The first one is the number of words in use. Entries follow: the length of the key
in bytes, the number of doubles, the key in UTF-8, padded to whole words, and the doubles. Entries are only ever added,
and one is complete before the number of words in use includes it. A double is aligned, so x86-64 and ARM64 write and
read it in one piece.
"""

import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING

#: Doubles of one series, in its owner's memory; every process that maps the memory sees the same.
if TYPE_CHECKING:
    Cell = memoryview[float]
else:  # memoryview takes a parameter from Python 3.14 on
    Cell = memoryview

BLOCK_BYTES = 1 << 18

_WORD = 8
#: Where the first entry begins, and where its key does, from its beginning.
_FIRST, _KEY = 1, 2


class Block:
    """The entries in ``memory``, which is all zeros at first. One process adds to it; any number of them read it."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        self._bytes = memoryview(memory)
        self._integers, self._doubles = self._bytes.cast("q"), self._bytes.cast("d")
        self._read = _FIRST

    def add(self, key: bytes, size: int) -> Cell | None:
        """The array of a new entry, ``size`` zeros; None if there is no room for it."""
        start = max(_FIRST, self._integers[0])
        first, end = _ends(start, len(key), size)
        if end > len(self._integers):
            return None
        self._integers[start], self._integers[start + 1] = len(key), size
        at = _WORD * (start + _KEY)
        self._bytes[at : at + len(key)] = key
        self._integers[0] = end
        return self._doubles[first:end]

    def added(self) -> Iterator[tuple[bytes, Cell]]:
        """The entries that no earlier call has returned. Raises ValueError when the memory is no block."""
        used = self._integers[0]
        if not 0 <= used <= len(self._integers):
            raise ValueError(f"not a block of metrics: {used} of {len(self._integers)} words are in use")
        while self._read < used:
            length, size = self._integers[self._read], self._integers[self._read + 1]
            first, end = _ends(self._read, length, size)
            if length < 0 or size < 0 or end > used:
                raise ValueError(f"not a block of metrics: an entry at word {self._read} ends at {end} of {used}")
            at = _WORD * (self._read + _KEY)
            yield bytes(self._bytes[at : at + length]), self._doubles[first:end]
            self._read = end


def _ends(start: int, key_bytes: int, size: int) -> tuple[int, int]:
    """The first word of the doubles of an entry that begins at word ``start``, and the word after its last."""
    first = start + _KEY + -(-key_bytes // _WORD)
    return first, first + size
