"""The engine process's side of a link: frames over a Unix socket, for plain threads without an event loop."""

import os
import select
import socket
import threading
from collections import deque
from contextlib import suppress
from pathlib import Path

from service.link.frames import (
    MAX_BUFFERED_BYTES,
    MAX_FRAME_BYTES,
    FrameReader,
    FrameTooLarge,
    PeerNotReading,
    head_of,
    socket_path,
)

#: The buffer that is asked of the kernel for each direction: the pixels of a large picture leave in one system call.
#: The kernel gives at most net.core.wmem_max.
SEND_BUFFER_BYTES = 2 * 2**20


class SharedSocket:
    """A socket for several threads, any of which may close it.

    ``close`` ends all blocked calls at once, but the file descriptor stays until the last of them has returned. Else
    the number could be given to another file, and a thread that is about to block would read that one.
    """

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._lock = threading.Lock()
        self._users = 0
        self.closed = False

    def __enter__(self) -> socket.socket:
        """The socket, for the length of one call. Raises OSError once it is closed."""
        with self._lock:
            if self.closed:
                raise OSError("the socket is closed")
            self._users += 1
        return self._socket

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            self._release()

    def close(self) -> None:
        """Close it; again does nothing."""
        with self._lock:
            if not self.closed:
                self.closed = True
                with suppress(OSError):  # the peer is gone already
                    self._socket.shutdown(socket.SHUT_RDWR)
            self._release()

    def _release(self) -> None:
        if self.closed and not self._users:
            self._socket.close()


class Channel:
    """One connection of an API process, from ``Listener.accept`` or of a connected Unix stream socket.

    One thread receives, any thread sends. ``most_frame`` and ``most_buffered`` are bounds in bytes. ``error`` is why
    the channel closed itself, or None: after ``close``, and when the peer closed.
    """

    def __init__(
        self, connected: socket.socket, most_frame: int = MAX_FRAME_BYTES, most_buffered: int = MAX_BUFFERED_BYTES
    ) -> None:
        connected.setblocking(True)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.error: Exception | None = None
        self._socket = SharedSocket(connected)
        self._most_frame = most_frame
        self._most_buffered = most_buffered
        self._reader = FrameReader(most_frame)
        self._received: deque[bytes] = deque()
        self._changed = threading.Condition()  # guards what follows and the order of writes
        self._waiting: deque[memoryview] = deque()
        self._buffered = 0
        threading.Thread(target=self._drain, name="link-writer", daemon=True).start()

    @property
    def closed(self) -> bool:
        """Whether it is closed: by ``close``, by the peer, or because of ``error``."""
        return self._socket.closed

    @property
    def buffered(self) -> int:
        """How many bytes wait here because the peer has not read what came before them."""
        return self._buffered

    def receive(self) -> bytes | None:
        """Wait for the next payload. None: the peer or this side closed, and there is no whole payload left."""
        try:
            while not self._received and (size := self._read()):
                self._received.extend(self._reader.filled(size))
        except FrameTooLarge as error:
            self._fail(error)
        if self._received:
            return self._received.popleft()
        self.close()
        return None

    def send(self, payload: bytes) -> None:
        """Send one frame, from any thread, without ever waiting for the peer. Nothing happens once it is closed.

        Raises FrameTooLarge. If then more than ``most_buffered`` bytes wait, it closes with PeerNotReading.
        """
        head = head_of(payload, self._most_frame)
        with self._changed:
            sent = 0 if self._waiting else self._send_now(head, payload)
            if self.closed or sent == len(head) + len(payload):
                return
            rest = memoryview(payload)[sent - len(head) :] if sent >= len(head) else memoryview(head + payload)[sent:]
            self._waiting.append(rest)
            self._buffered += len(rest)
            self._changed.notify()
            waiting = self._buffered
        if waiting > self._most_buffered:
            self._fail(PeerNotReading(waiting, self._most_buffered))

    def close(self) -> None:
        """Close it at once; again does nothing. What the kernel has not taken is dropped; ``receive`` returns."""
        self._socket.close()
        with self._changed:
            self._waiting.clear()
            self._buffered = 0
            self._changed.notify()

    def _fail(self, error: Exception) -> None:
        self.error = self.error or error
        self.close()

    def _read(self) -> int:
        try:
            with self._socket as connected:
                return connected.recv_into(self._reader.space())
        except OSError:  # closed here, or the peer ended without reading everything
            return 0

    def _send_now(self, *pieces: bytes | memoryview) -> int:
        """How many bytes of ``pieces`` the kernel took; 0 also if the connection ended, which closes the channel."""
        try:
            with self._socket as connected:
                return connected.sendmsg(pieces, (), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0
        except OSError:
            self.close()
            return 0

    def _drain(self) -> None:
        """The writer thread: pass on what waits, whenever the kernel has room."""
        while not self.closed:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self.closed)
            self._wait_for_room()
            with self._changed:
                while self._waiting and (taken := self._send_now(self._waiting[0])):
                    self._drop(taken)

    def _wait_for_room(self) -> None:
        poll = select.poll()
        with suppress(OSError), self._socket as connected:
            poll.register(connected, select.POLLOUT)
            poll.poll()

    def _drop(self, taken: int) -> None:
        """Forget the first ``taken`` bytes of the first frame that waits."""
        first = self._waiting.popleft()
        self._buffered -= taken
        if taken < len(first):
            self._waiting.appendleft(first[taken:])


class Listener:
    """A Unix socket at ``path`` that only this user may connect to. ``most_frame`` and ``most_buffered``: ``Channel``.

    A socket that an ended process left at ``path`` is replaced. Raises OSError if ``path`` is in use, or is another
    kind of file, and ValueError if it is too long.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        most_frame: int = MAX_FRAME_BYTES,
        most_buffered: int = MAX_BUFFERED_BYTES,
    ) -> None:
        self._path = Path(socket_path(path))
        self._bounds = most_frame, most_buffered
        _remove_abandoned(self._path)
        listening = socket.socket(socket.AF_UNIX)
        self._socket = SharedSocket(listening)
        try:
            os.fchmod(listening.fileno(), 0o600)  # before bind makes the file: nobody may connect in between
            listening.bind(str(self._path))
            listening.listen()
        except OSError:
            self._socket.close()
            raise

    def accept(self) -> Channel | None:
        """Wait for the next connection; None once the listener is closed."""
        try:
            with self._socket as listening:
                connected, _ = listening.accept()
        except OSError:
            if not self._socket.closed:  # out of file descriptors, for example
                raise
            return None
        return Channel(connected, *self._bounds)

    def close(self) -> None:
        """Stop listening and remove the file; channels stay. Again does nothing."""
        if not self._socket.closed:
            self._socket.close()
            self._path.unlink(missing_ok=True)


def _remove_abandoned(path: Path) -> None:
    """Remove the socket that a process left at ``path`` when it was killed."""
    if not path.is_socket():  # other files refuse a connection too
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:  # bind gives the reason
            pass
