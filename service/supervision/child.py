"""One supervised process: started, spoken to, waited for and ended from the supervisor's event loop.

A child is forked by a fork server, a process of its own that has imported the heavy packages once and runs no threads.
Forking the supervisor itself would copy locks that its threads hold. It ends when its supervisor ends, also by
SIGKILL: the control channel closes, and the fork server ends, upon which the kernel kills its children.
"""

import asyncio
import atexit
import gc
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal, Self

from service.process import end_with_parent, name_process

Method = Literal["forkserver", "spawn"]
#: Called in the child with its end of the control channel, then with further arguments.
Target = Callable[..., object]

DEFAULT_METHOD: Method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"

#: The largest message on a control channel, in bytes; and what may wait for a child that does not read.
MESSAGE_BYTES = 1 << 20
UNREAD_BYTES = 4 << 20

#: Typed in a terminal or sent to the whole service, these reach all its processes. Children obey their supervisor only.
_SHARED_SIGNALS = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
_LENGTH_BYTES = 4
#: What multiprocessing reports if the fork server, which knows the exit code, has ended.
_UNKNOWN = 255
#: numpy's BLAS starts a thread per core when it is imported, and the service has no use for them.
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"

_LAST_MODULE = "service.supervision.fork_server"

log = logging.getLogger(__name__)


def prepare(preload: Sequence[str]) -> None:
    """Start the fork server and wait until it has imported the modules ``preload``; seconds if torch is among them.

    Call it once, before the first child: later calls change nothing while the fork server lives. A module must start
    no threads when it is imported and must not use CUDA: neither survives a fork. Logs a warning for a module that
    cannot be imported (children will try themselves) and if there are threads.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*preload, _LAST_MODULE])
    ours, theirs = socket.socketpair()
    with ours, Connection(theirs.detach()) as connection:
        first = context.Process(target=_inspect, args=(connection, list(preload)))
        with _environment(_BLAS_THREADS, "1"):
            _launch(first)
        connection.close()
        for problem in ours.makefile(encoding="utf-8"):
            log.warning("fork server is not as it should be", extra={"reason": problem.rstrip()})
    first.join()
    first.close()


class Child:
    """A running process; ``start`` makes one. Use it on the event loop that started it.

    ``pid`` and ``name`` stay when it has ended.
    """

    def __init__(self, name: str, process: BaseProcess) -> None:
        """Use ``start``."""
        self.name, self.pid = name, process.pid or 0
        self._process = process
        self._reader = asyncio.StreamReader()
        self._exit: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._length: int | None = None
        self._transport: asyncio.WriteTransport

    @classmethod
    async def start(cls, name: str, target: Target, *args: object, method: Method = DEFAULT_METHOD) -> Self:
        """Start ``target(connection, *args)`` in a process that `ps` shows as ``name`` (15 bytes).

        ``target`` is a function of a module; ``args`` are copied by pickle to our own child, and may hold sockets and
        Connections, which are then open in both processes. ``connection.recv_bytes()`` raises EOFError in the child
        when the supervisor is gone. Blocks for milliseconds, or until the fork server has imported its modules.
        """
        ours, theirs = socket.socketpair()
        with Connection(theirs.detach()) as connection:
            process = _process_class(method)(target=_run, args=(name, method, connection, target, args), name=name)
            _launch(process)
        child = cls(name, process)
        await child._watch(ours)
        return child

    async def receive(self) -> bytes:
        """The next message of the child. Raises EOFError after its last, ValueError for one above 1 MiB.

        Only one task may receive. A cancelled call loses no message. The channel cannot be used after a ValueError.
        """
        if self._length is None:
            self._length = int.from_bytes(await self._reader.readexactly(_LENGTH_BYTES), "big", signed=True)
        if not 0 <= self._length <= MESSAGE_BYTES:
            raise ValueError(f"{self.name} sent a message of {self._length} bytes, at most {MESSAGE_BYTES} are allowed")
        message = await self._reader.readexactly(self._length)
        self._length = None
        return message

    def send(self, message: bytes) -> None:
        """Send a message of up to 1 MiB; never blocks. It is dropped if the child ends before it reads it.

        Raises ValueError for a longer one, BufferError if 4 MiB wait already: the child does not read.
        """
        if len(message) > MESSAGE_BYTES:
            raise ValueError(f"message has {len(message)} bytes, at most {MESSAGE_BYTES} are allowed")
        if self._transport.is_closing():
            return
        if self._transport.get_write_buffer_size() > UNREAD_BYTES:
            raise BufferError(f"{self.name} does not read its messages")
        self._transport.write(len(message).to_bytes(_LENGTH_BYTES, "big") + message)

    async def wait(self) -> int:
        """The exit code, when the process has ended: as the target chose, or minus the number of the signal."""
        return await asyncio.shield(self._exit)

    @property
    def running(self) -> bool:
        """Whether the process has not ended, as far as the event loop has seen."""
        return not self._exit.done()

    def exit_reason(self) -> str:
        """How the process ended, in words: "exit code 3", "killed by signal SIGKILL"; or "running"."""
        return reason_of(self._exit.result()) if self._exit.done() else "running"

    def terminate(self, number: int = signal.SIGTERM) -> None:
        """Ask the process to stop, with a signal. Nothing happens if it has ended."""
        if self.running:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the process at once, with SIGKILL, also if it is stopped or hangs."""
        if self.running:
            self._process.kill()

    def close(self) -> None:
        """Kill the process if it runs, and close its channel: messages that were not received are lost.

        A channel whose messages have all been received closes by itself when the process ends.
        """
        self.kill()
        self._transport.abort()

    async def _watch(self, channel: socket.socket) -> None:
        # If the supervisor fails, its exit would wait forever for a child that hangs.
        atexit.register(self.kill)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.sentinel, self._ended)
        protocol = partial(_ClosedByPeer, self._reader)
        self._transport, _ = await loop.create_unix_connection(protocol, sock=channel)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._process.sentinel)
        atexit.unregister(self.kill)
        self._process.join()
        code = self._process.exitcode or 0
        if code == _UNKNOWN:  # outside Linux, children outlive their fork server
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self._exit.set_result(code)
        self._process.close()


class _ClosedByPeer(asyncio.StreamReaderProtocol):
    """Closes the transport when the other end has closed; messages that arrived before can still be read."""

    def eof_received(self) -> bool:
        super().eof_received()
        return False


def reason_of(code: int) -> str:
    """An exit code in words: "exit code 3", or "killed by signal SIGKILL" for -9."""
    if code == _UNKNOWN:
        return f"exit code {code}, or its fork server has ended"
    if code >= 0:
        return f"exit code {code}"
    with suppress(ValueError):
        return f"killed by signal {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """An environment variable that processes started meanwhile inherit, unless it is set already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


def _process_class(method: Method) -> type[BaseProcess]:
    if method == "spawn":
        return multiprocessing.get_context("spawn").Process
    return multiprocessing.get_context("forkserver").Process


def _launch(process: BaseProcess) -> None:
    """Start a process, and the processes that multiprocessing needs for it, with the shared signals blocked.

    A terminal's SIGHUP or a service manager's SIGTERM would otherwise end the fork server and with it all children.
    """
    with _blocked_signals():
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SHARED_SIGNALS)  # the line above unblocks some
        process.start()


@contextmanager
def _blocked_signals() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SHARED_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# In the child.


def _inspect(connection: Connection, preload: list[str]) -> None:
    """Write a line for each thing that is wrong with the fork server of which this process is a copy."""
    problems = [f"{name} could not be imported" for name in preload if name not in sys.modules]
    with suppress(OSError):  # not on Linux
        threads = len(list(Path(f"/proc/{os.getppid()}/task").iterdir()))
        problems += [f"it has {threads} threads"] if threads > 1 else []
    os.write(connection.fileno(), "".join(f"{problem}\n" for problem in problems).encode())


def _run(name: str, method: Method, connection: Connection, target: Target, args: tuple[object, ...]) -> None:
    gc.freeze()  # else the first collection writes to every object that the fork server shares, and copies it
    name_process(name)
    if method == "forkserver":
        _end_with_fork_server()
    exit_with_parent(connection)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SHARED_SIGNALS)
    try:
        target(connection, *args)
    except EOFError:
        if not _hung_up(connection.fileno(), 0):
            raise  # else the traceback would only say that the supervisor is gone


def _stop(*_: object) -> None:
    """What SIGTERM does unless the target installs a handler: unwind the main thread, exit code 0."""
    raise SystemExit(0)


def _end_with_fork_server() -> None:
    """Be killed by the kernel when the fork server ends.

    It ends when all copies of a pipe are closed: ours must be too, or the children keep it alive, and it them.
    """
    end_with_parent()
    server: Any = forkserver._forkserver
    os.close(server._forkserver_alive_fd)
    server._forkserver_alive_fd = None


def exit_with_parent(connection: Connection) -> None:
    """End this process, from a thread of its own, when the other end of ``connection`` closes."""
    watched = os.dup(connection.fileno())  # else the number could become another file's
    threading.Thread(target=_exit_at_hangup, args=(watched,), name="supervisor-watch", daemon=True).start()


def _exit_at_hangup(descriptor: int) -> None:
    _hung_up(descriptor, None)
    os._exit(1)


def _hung_up(descriptor: int, within_ms: int | None) -> bool:
    poll = select.poll()
    poll.register(descriptor, 0)  # a hang-up is reported always, messages are left to their reader
    return bool(poll.poll(within_ms))
