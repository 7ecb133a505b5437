"""What the children of these tests run: functions of a module, for a child imports them by name."""

import ctypes
import gc
import os
import signal
import socket
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from service.supervision.heartbeat import Heartbeat


def echo(connection: Connection, first: bytes = b"ready") -> None:
    """Send ``first``, then every message back, until the supervisor is gone."""
    connection.send_bytes(first)
    while True:
        connection.send_bytes(connection.recv_bytes())


def leave(connection: Connection, code: int) -> None:
    sys.exit(code)


def fail(connection: Connection) -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the traceback is not what is tested
    raise RuntimeError("failed")


def die(connection: Connection, number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(60)


def send_many(connection: Connection, count: int, size: int) -> None:
    for number in range(count):
        connection.send_bytes(bytes([number]) * size)


def send_in_parts(connection: Connection, message: bytes) -> None:
    """Send a message's length, and the message itself only after one from the supervisor."""
    os.write(connection.fileno(), len(message).to_bytes(4, "big"))
    connection.recv_bytes()
    os.write(connection.fileno(), message)


def never_read(connection: Connection) -> None:
    connection.send_bytes(b"ready")
    time.sleep(60)


def hold_interpreter(connection: Connection) -> None:
    """Never give the interpreter's lock back: no thread of this process can run Python any more."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    connection.send_bytes(b"ready")
    ctypes.PyDLL(None).sleep(60)


def describe(connection: Connection) -> None:
    """Send the process's name, how it handles the signals that a terminal sends to all, and what it shares."""
    handled = [signal.getsignal(number) == signal.SIG_IGN for number in (signal.SIGINT, signal.SIGHUP)]
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    name = Path("/proc/self/comm").read_text().strip() if sys.platform == "linux" else ""
    connection.send_bytes(f"{name} {all(handled)} {len(blocked)} {gc.get_freeze_count() > 1000}".encode())


def serve_one(connection: Connection, listener: socket.socket) -> None:
    """Accept one client, send it this process's number, and wait with the client's connection open."""
    connection.send_bytes(b"ready")
    client, _ = listener.accept()
    with client:
        client.sendall(str(os.getpid()).encode())
    connection.recv_bytes()


def beat(connection: Connection, path: str) -> None:
    """Begin and end pieces of work with the same three rows, as fast as possible."""
    heartbeat = Heartbeat.open(Path(path))
    heartbeat.begin(0, (7, 8, 9))
    heartbeat.end(0)
    connection.send_bytes(b"ready")
    while True:
        heartbeat.begin(0, (7, 8, 9))
        heartbeat.end(0)


def ignore_sigterm(connection: Connection) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection.send_bytes(b"ready")
    threading.Event().wait()
