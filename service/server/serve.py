"""The process that serves: the public application and the operator's, on one event loop, and the signals they heed."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.admin import create_admin
from service.app import create_app
from service.background import log_failure
from service.server.protocol import Protocol
from service.server.proxy import behind_proxy
from service.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

#: The most new connections that are taken in one turn of the event loop.
MOST_ACCEPTED = 256


class Server(uvicorn.Server):
    """uvicorn's, which leaves the signals to ``serve``, and takes all new connections in a turn of the event loop.

    libuv (since 1.45) takes one in a turn. Where turns are long, for there is much to do, who comes anew would wait for
    seconds behind those that are connected.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; what libuv leaves of new connections is taken from copies of its sockets."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[Any]] = set()
        listeners = [each for server in self.servers for each in server.sockets]
        self._copies = [socket.socket(fileno=os.dup(each.fileno())) for each in listeners]
        for each in self._copies:
            # Soon, after libuv has taken its one: it does so for less, and mostly there is no other.
            self._loop.add_reader(each, self._loop.call_soon, self._accept, each)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for what was begun."""
        for each in self._copies:
            self._loop.remove_reader(each)
            each.close()
        await super().shutdown(sockets)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(MOST_ACCEPTED):
            try:
                connection, _ = listener.accept()
            except OSError:  # no more wait, or the client has left again, or there is no file descriptor left
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _protocol(self) -> asyncio.Protocol:
        """One connection's, as uvicorn makes it."""
        kind, state = self.config.http_protocol_class, self.lifespan.state
        return kind(config=self.config, server_state=self.server_state, app_state=state)  # type: ignore[call-arg]

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Capture none."""
        return contextlib.nullcontext()


def bind_admin(settings: Settings) -> socket.socket | None:
    """The operator's socket, None where there shall be none. Raises OSError when the port is taken."""
    return None if settings.admin_port is None else socket.create_server((LOOPBACK, settings.admin_port))


def run(settings: Settings, admin: socket.socket | None) -> None:
    """Serve until SIGTERM or SIGINT. Raises SystemExit when the start fails."""
    app = create_app(settings)
    options = _options(settings) | {
        "host": settings.host,
        "port": settings.port,
        "http": Protocol,
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": settings.forwarded_allow_ips,
    }
    public = Server(uvicorn.Config(behind_proxy(app, settings), **options))
    with asyncio.Runner(loop_factory=public.config.get_loop_factory()) as runner:
        runner.run(_serve(app, public, admin, settings))


async def _serve(app: FastAPI, public: Server, admin_socket: socket.socket | None, settings: Settings) -> None:
    admin = Server(uvicorn.Config(create_admin(app), lifespan="off", **_options(settings)))
    _heed_signals(app, (public, admin))
    if admin_socket is None:
        await public.serve()
        return
    log.info("admin port", extra={"port": admin_socket.getsockname()[1]})
    beside = asyncio.create_task(admin.serve([admin_socket]))
    beside.add_done_callback(log_failure)
    try:
        await public.serve()
    finally:
        admin.should_exit = True
        await beside


def _heed_signals(app: FastAPI, servers: Sequence[Server]) -> None:
    """SIGTERM and SIGINT stop the servers, a second SIGINT without waiting; SIGHUP reloads what changed."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[Any]] = set()

    def stop(number: int) -> None:
        for server in servers:
            server.handle_exit(number, None)

    def reload() -> None:
        state = getattr(app.state, "service", None)
        if state is not None:
            task = loop.create_task(state.manager.reload_all())
            reloads.add(task)
            task.add_done_callback(reloads.discard)
            task.add_done_callback(log_failure)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload)


def _options(settings: Settings) -> dict[str, Any]:
    """What both servers have in common."""
    return {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
        "timeout_keep_alive": settings.keep_alive_s,
        "timeout_graceful_shutdown": settings.drain_s,  # a timeout of asyncio: a fraction will do
    }
