import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.series.block import BLOCK_BYTES, Block

entries = st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 12)), max_size=20)


@given(entries)
def test_a_reader_finds_every_entry_once(expected: list[tuple[bytes, int]]) -> None:
    memory = bytearray(1 << 13)
    writer, reader = Block(memory), Block(memory)
    for number, (key, size) in enumerate(expected):
        cell = writer.add(key, size)
        assert cell is not None
        assert cell.tolist() == [0.0] * size
        for place in range(size):
            cell[place] = number + place / 16
        ((found, values),) = reader.added()
        assert (found, values.tolist()) == (key, cell.tolist())
    assert list(reader.added()) == []
    assert [(key, len(values)) for key, values in Block(memory).added()] == expected


def test_what_is_written_later_is_seen() -> None:
    memory = bytearray(BLOCK_BYTES)
    written = Block(memory).add(b"images", 2)
    assert written is not None
    ((_, seen),) = Block(memory).added()
    written[1] = -0.5
    assert seen.tolist() == [0.0, -0.5]


def test_an_entry_that_does_not_fit_changes_nothing() -> None:
    memory = bytearray(64)  # 8 words: one in use, and 3 + 3 for an entry of three doubles with a short key
    block = Block(memory)
    assert block.add(b"a", 3) is not None
    before = bytes(memory)
    assert block.add(b"b", 1) is None
    assert bytes(memory) == before


@pytest.mark.parametrize("word", [(1, -1), (1, 1 << 40), (2, -9), (2, 1 << 40), (0, 1 << 40)])
def test_damaged_memory_is_an_error(word: tuple[int, int]) -> None:
    memory = bytearray(256)
    Block(memory).add(b"images", 2)
    place, value = word
    memoryview(memory).cast("q")[place] = value
    with pytest.raises(ValueError, match="not a block of metrics"):
        list(Block(memory).added())
