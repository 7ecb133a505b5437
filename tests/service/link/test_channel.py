import socket
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.link.channel import Channel, Listener, SharedSocket
from service.link.frames import FrameReader, FrameTooLarge, PeerNotReading, frame

END_S = 30.0  # a test that waits for longer has failed


class Pair:
    """A channel and the other end of its socket."""

    def __init__(self, **bounds: int) -> None:
        self.ours, self.peer = socket.socketpair()
        self.peer.settimeout(END_S)
        self.channel = Channel(self.ours, **bounds)

    def read(self, count: int, reader: FrameReader | None = None) -> list[bytes]:
        """The next ``count`` payloads that the peer reads."""
        reader, found = reader or FrameReader(), list[bytes]()
        while len(found) < count:
            data = self.peer.recv(100_000)
            assert data
            found += reader.feed(data)
        return found

    def read_to_the_end(self) -> bytes:
        found = b""
        while data := self.peer.recv(100_000):
            found += data
        return found

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    with closing(Pair()) as made:
        yield made


def in_a_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def ended(thread: threading.Thread) -> bool:
    thread.join(END_S)
    return not thread.is_alive()


@settings(deadline=None)
@given(payloads=st.lists(st.one_of(st.binary(max_size=20), st.integers(0, 400_000).map(bytes)), max_size=5))
def test_both_directions_pass_payloads_whole_and_in_order(payloads: list[bytes]) -> None:
    with closing(Pair()) as pair:
        for payload in payloads:
            pair.channel.send(payload)  # most stays with the channel: nobody reads yet
        assert pair.read(len(payloads)) == payloads
        sender = in_a_thread(lambda: pair.peer.sendall(b"".join(map(frame, payloads))))
        assert [pair.channel.receive() for _ in payloads] == payloads
        assert ended(sender)


def test_senders_in_many_threads_never_interleave(pair: Pair) -> None:
    sizes, senders, each = (1, 50, 700_000), 6, 30  # more than the kernel takes

    def send(sender: int) -> None:
        for turn in range(each):
            pair.channel.send(bytes([sender]) * sizes[turn % len(sizes)])

    threads = [in_a_thread(partial(send, sender)) for sender in range(senders)]
    found = pair.read(senders * each)
    assert all(map(ended, threads))
    for sender in range(senders):
        own = [payload for payload in found if payload[0] == sender]
        assert own == [bytes([sender]) * sizes[turn % len(sizes)] for turn in range(each)]


def test_a_peer_that_does_not_read_closes_the_channel_at_the_bound() -> None:
    with closing(Pair(most_buffered=10_000_000)) as pair:
        payload = bytes(1_000_000)
        while not pair.channel.closed:  # each send returns: nobody reads while this test runs
            assert pair.channel.buffered <= 10_000_000
            pair.channel.send(payload)
        assert isinstance(pair.channel.error, PeerNotReading)
        assert pair.channel.buffered == 0
        assert pair.channel.receive() is None
        pair.channel.send(b"after the end")
        read = pair.read_to_the_end()
        assert frame(payload) in read[:1_000_004]
        assert not read.endswith(b"after the end")


def test_a_peer_that_reads_again_gets_everything(pair: Pair) -> None:
    payloads = [bytes([index]) * 500_000 for index in range(20)]
    for payload in payloads:
        pair.channel.send(payload)
    assert pair.channel.buffered > 0
    assert pair.read(len(payloads)) == payloads
    pair.channel.send(b"directly again")
    assert pair.read(1) == [b"directly again"]
    assert pair.channel.buffered == 0


def test_a_frame_does_not_pass_those_that_wait(monkeypatch: pytest.MonkeyPatch, pair: Pair) -> None:
    writer_may_go = threading.Event()
    monkeypatch.setattr(pair.channel, "_wait_for_room", writer_may_go.wait)
    pair.channel.send(b"1" * 20_000_000)
    taken = 20_000_004 - pair.channel.buffered
    start = pair.peer.recv(taken, socket.MSG_WAITALL)
    assert len(start) == taken
    pair.channel.send(b"2")  # the kernel has room, but the first frame is not complete
    writer_may_go.set()
    reader = FrameReader()
    assert list(reader.feed(start)) == []
    assert pair.read(2, reader) == [b"1" * 20_000_000, b"2"]


def test_the_end_of_the_peer_ends_receive_after_its_last_payload(pair: Pair) -> None:
    pair.peer.sendall(frame(b"first") + frame(b"last") + frame(b"cut off")[:-1])
    pair.peer.close()
    assert [pair.channel.receive() for _ in range(4)] == [b"first", b"last", None, None]
    assert pair.channel.closed
    assert pair.channel.error is None


def test_a_peer_that_ends_without_reading(pair: Pair) -> None:
    pair.channel.send(b"not read")
    pair.peer.close()  # the kernel reports a reset connection instead of an end
    assert pair.channel.receive() is None
    assert pair.channel.closed


def test_a_send_notices_that_the_peer_is_gone(pair: Pair) -> None:
    pair.peer.close()
    pair.channel.send(b"nobody")
    assert pair.channel.closed


def test_a_peer_that_ends_while_frames_wait(pair: Pair) -> None:
    pair.channel.send(bytes(20_000_000))
    assert pair.channel.buffered > 0
    reader = in_a_thread(pair.channel.receive)
    pair.peer.close()
    assert ended(reader)
    assert pair.channel.closed
    assert pair.channel.buffered == 0


def test_close_wakes_the_reader_and_is_idempotent(pair: Pair) -> None:
    received = list[bytes | None]()
    reader = in_a_thread(lambda: received.append(pair.channel.receive()))
    pair.channel.close()
    pair.channel.close()
    assert ended(reader)
    assert received == [None]
    assert pair.peer.recv(1) == b""


def test_the_writer_and_the_descriptor_end_with_the_channel() -> None:
    before = set(threading.enumerate())
    pair = Pair()
    (writer,) = set(threading.enumerate()) - before
    pair.close()
    assert ended(writer)
    assert pair.ours.fileno() == -1


def test_a_frame_that_is_too_large() -> None:
    with closing(Pair(most_frame=10)) as pair:
        with pytest.raises(FrameTooLarge):
            pair.channel.send(bytes(11))
        assert not pair.channel.closed
        pair.peer.sendall(frame(b"ok") + frame(bytes(11)))
        assert [pair.channel.receive(), pair.channel.receive()] == [b"ok", None]
        assert isinstance(pair.channel.error, FrameTooLarge)
        assert pair.channel.closed


def test_a_descriptor_stays_until_its_last_user_has_returned() -> None:
    ours, peer = socket.socketpair()
    shared = SharedSocket(ours)
    with peer:
        with shared as used:
            shared.close()
            assert used.fileno() >= 0
            assert used.recv(1) == b""  # it does not block any more
        assert ours.fileno() == -1
        with pytest.raises(OSError, match="closed"), shared:
            pass


def test_a_listener_accepts_channels_of_this_user_only(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    with closing(Listener(path)) as listener, socket.socket(socket.AF_UNIX) as peer:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        peer.connect(str(path))
        channel = listener.accept()
        assert channel is not None
        peer.sendall(frame(b"hello"))
        assert channel.receive() == b"hello"
        listener.close()
        assert not path.exists()
        channel.send(b"still there")
        assert peer.recv(100) == frame(b"still there")
        channel.close()


def test_close_wakes_accept(tmp_path: Path) -> None:
    listener, accepted = Listener(tmp_path / "engine"), list[Channel | None]()
    waiting = in_a_thread(lambda: accepted.append(listener.accept()))
    listener.close()
    listener.close()
    assert ended(waiting)
    assert accepted == [None]
    assert listener.accept() is None


def test_a_socket_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "engine"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    assert path.is_socket()
    listener = Listener(path)
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(str(path))
    listener.close()


def test_a_path_in_use_is_not_taken_over(tmp_path: Path) -> None:
    with closing(Listener(tmp_path / "engine")), pytest.raises(OSError, match="in use"):
        Listener(tmp_path / "engine")
    (tmp_path / "file").write_text("kept")
    with pytest.raises(OSError, match="in use"):
        Listener(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at most 107 bytes"):
        Listener(tmp_path / ("a" * 107))
