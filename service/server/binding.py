"""The public sockets: their addresses, and what to do if another program has the port."""

import errno
import logging
import socket

from service.logs import SENTENCE
from service.settings import Settings

log = logging.getLogger(__name__)

#: Ports after the one that is in use, of which a free one is suggested.
NEAR = 100


def bind_public(settings: Settings, processes: int) -> list[list[socket.socket]]:
    """The sockets of each API process, which share the port. They do not listen yet. Raises OSError.

    The first process keeps them open: connections that wait at the socket of a process that dies are answered by the
    next.
    """
    found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    addresses = list(dict.fromkeys((family, address) for family, _, _, _, address in found))
    port = settings.port
    listeners: list[list[socket.socket]] = []
    for _ in range(processes):
        own = []
        for family, address in addresses:
            own.append(_bound(family, (address[0], port, *address[2:]), shared=processes > 1))
            port = own[-1].getsockname()[1]
        listeners.append(own)
    return listeners


def log_running(listener: socket.socket) -> None:
    """Log the address of the service; people get one that a browser on this machine can open."""
    host, port = listener.getsockname()[:2]
    text = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown, opened = (f"http://{f'[{each}]' if ':' in each else each}:{port}" for each in (host, text))
    message = f"genserve running on {shown} (Press CTRL+C to quit)"
    log.info(message, extra={SENTENCE: f"open {opened}"})


def _bound(family: int, address: tuple[object, ...], *, shared: bool) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    try:
        listener.bind(address)
    except OSError as failure:
        listener.close()
        if failure.errno == errno.EADDRINUSE:
            raise OSError(
                failure.errno, f"port {address[1]} of {address[0]} is in use{_remedy(family, address)}"
            ) from None
        if failure.errno == errno.EACCES:
            raise OSError(failure.errno, f"port {address[1]} is for root; set GENSERVE_PORT to 1024 or more") from None
        raise
    return listener


def _remedy(family: int, address: tuple[object, ...]) -> str:
    """How to use the next port that is free; empty if none is near."""
    host, taken, *rest = address
    for port in range(int(str(taken)) + 1, min(int(str(taken)) + NEAR, 1 << 16)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port, *rest))
            except OSError:
                continue
        return f"; {port} is free: GENSERVE_PORT={port}, `genserve serve --port {port}` or `make serve PORT={port}`"
    return ""
