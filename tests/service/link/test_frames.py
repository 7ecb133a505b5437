import itertools
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.link.frames import READ_BYTES, FrameReader, FrameTooLarge, frame, socket_path

payloads_of_any_size = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, 3 * READ_BYTES).map(bytes)), max_size=6
)


def pieces_of(stream: bytes, cuts: Iterable[int]) -> Iterator[bytes]:
    """``stream``, cut at these places."""
    places = [0, *sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]
    return (stream[start:end] for start, end in itertools.pairwise(places))


def fed(reader: FrameReader, pieces: Iterable[bytes]) -> list[bytes]:
    return [payload for piece in pieces for payload in reader.feed(piece)]


def test_a_frame_is_a_little_endian_length_and_the_payload() -> None:
    assert frame(b"abc") == b"\x03\x00\x00\x00abc"
    assert frame(b"") == bytes(4)
    assert frame(bytes(0x0102))[:4] == b"\x02\x01\x00\x00"


@given(payloads=payloads_of_any_size, cuts=st.sets(st.integers(0, 20 * READ_BYTES), max_size=20))
def test_payloads_come_out_whole_and_in_order_wherever_the_stream_is_cut(payloads: list[bytes], cuts: set[int]) -> None:
    stream = b"".join(map(frame, payloads))
    assert fed(FrameReader(), pieces_of(stream, {cut % (len(stream) + 1) for cut in cuts})) == payloads


@given(payloads=st.lists(st.binary(max_size=9), max_size=9))
def test_a_stream_in_single_bytes(payloads: list[bytes]) -> None:
    stream = b"".join(map(frame, payloads))
    assert fed(FrameReader(), pieces_of(stream, range(len(stream)))) == payloads


@given(payloads=payloads_of_any_size, reads=st.lists(st.integers(500, 2 * READ_BYTES), min_size=1, max_size=9))
def test_bytes_that_are_read_into_its_space(payloads: list[bytes], reads: list[int]) -> None:
    rest, reader, found = memoryview(b"".join(map(frame, payloads))), FrameReader(), list[bytes]()
    for read in itertools.cycle(reads):
        if not len(rest):
            break
        space = reader.space()
        assert len(space)
        size = min(read, len(space), len(rest))
        space[:size] = rest[:size]
        found += reader.filled(size)
        rest = rest[size:]
    assert found == payloads


def test_a_view_of_a_buffer_that_is_used_again() -> None:
    buffer, reader = bytearray(frame(b"first")), FrameReader()
    found = list(reader.feed(memoryview(buffer)))
    buffer[4:] = b"other"
    assert found == [b"first"]


def test_a_payload_of_the_longest_length_passes_and_a_longer_one_does_not() -> None:
    assert fed(FrameReader(most=5), [frame(b"12345")]) == [b"12345"]
    with pytest.raises(FrameTooLarge, match=r"frame of 6 bytes .* allowed 5"):
        fed(FrameReader(most=5), [frame(b"123456")])
    with pytest.raises(FrameTooLarge):
        frame(b"123456", most=5)


def test_frames_before_one_that_is_too_large_are_given() -> None:
    frames = FrameReader(most=3).feed(frame(b"ok") + frame(b"too large"))
    assert next(frames) == b"ok"
    with pytest.raises(FrameTooLarge):
        next(frames)


def test_a_length_that_is_too_large_takes_no_memory() -> None:
    reader = FrameReader()
    tracemalloc.start()
    try:
        with pytest.raises(FrameTooLarge, match="4294967295"):
            fed(reader, [b"\xff\xff", b"\xff\xff"])
        assert tracemalloc.get_traced_memory()[1] < READ_BYTES
    finally:
        tracemalloc.stop()


def test_a_large_frame_is_not_moved_while_it_arrives() -> None:
    payload, reader = bytes(4 * READ_BYTES), FrameReader()
    first, *others = pieces_of(frame(b"before") + frame(payload), range(1000, len(payload), 1000))
    assert fed(reader, [first]) == [b"before"]
    buffer = reader.space().obj
    for piece in others[:-1]:
        assert fed(reader, [piece]) == []
        assert reader.space().obj is buffer
    assert fed(reader, others[-1:]) == [payload]


def test_the_memory_of_a_very_large_frame_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.link.frames.KEPT_BYTES", 2 * READ_BYTES)
    reader = FrameReader()
    fed(reader, [frame(bytes(3 * READ_BYTES))[:-1]])
    assert len(reader.space()) == 1
    fed(reader, [b"\0"])
    assert len(reader.space()) == READ_BYTES


@pytest.mark.parametrize("name", ["a" * 107, "ä" * 53])
def test_paths_that_a_unix_socket_can_have(name: str) -> None:
    assert socket_path(Path(name)) == name


@pytest.mark.parametrize(("name", "size"), [("a" * 108, 108), ("ä" * 54, 108)])
def test_paths_that_are_too_long(name: str, size: int) -> None:
    with pytest.raises(ValueError, match=f"at most 107 bytes, not {size}: {name}"):
        socket_path(name)
