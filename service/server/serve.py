"""Runs the public and the operator's application on one event loop, and handles signals."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.admin import create_admin
from service.app import create_app
from service.background import log_failure
from service.models.manager import ModelManager
from service.server.protocol import Protocol
from service.server.proxy import behind_proxy
from service.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

#: Maximum number of new connections accepted in one iteration of the event loop.
MAX_ACCEPTED = 256


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to ``run``, and accepts all new connections in an iteration of the loop.

    libuv (since 1.45) accepts one for each iteration. Under load, when iterations are long, new clients would wait for
    seconds.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; connections that libuv has not accepted yet are accepted through copies of its sockets."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        self._connecting: set[asyncio.Task[Any]] = set()
        listeners = [each for server in self.servers for each in server.sockets]
        self._copies = [socket.socket(fileno=os.dup(each.fileno())) for each in listeners]
        for each in self._copies:
            # After libuv accepted its one: that is cheaper, and usually there is no other.
            self._loop.add_reader(each, self._loop.call_soon, self._accept, each)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, and wait for running requests."""
        for each in self._copies:
            self._loop.remove_reader(each)
            each.close()
        await super().shutdown(sockets)

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(MAX_ACCEPTED):
            try:
                connection, _ = listener.accept()
            except OSError:  # none is waiting, or the client left, or no file descriptor is free
                return
            connection.setblocking(False)
            task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def _protocol(self) -> asyncio.Protocol:
        """A protocol for one connection, created as uvicorn does."""
        kind, state = self.config.http_protocol_class, self.lifespan.state
        return kind(config=self.config, server_state=self.server_state, app_state=state)  # type: ignore[call-arg]

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals alone."""
        return contextlib.nullcontext()


def bind_admin(settings: Settings) -> socket.socket | None:
    """The socket of the admin port, None if it is disabled. Raises OSError when the port is in use."""
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
    admin = Server(uvicorn.Config(create_admin(partial(_manager_of, app)), lifespan="off", **_options(settings)))
    _handle_signals(app, (public, admin))
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


def _handle_signals(app: FastAPI, servers: Sequence[Server]) -> None:
    """SIGTERM and SIGINT stop the servers, a second SIGINT without waiting; SIGHUP reloads what changed."""
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[Any]] = set()

    def stop(number: int) -> None:
        for server in servers:
            server.handle_exit(number, None)

    def reload() -> None:
        manager = _manager_of(app)
        if manager is not None:
            task = loop.create_task(manager.reload_all())
            reloads.add(task)
            task.add_done_callback(reloads.discard)
            task.add_done_callback(log_failure)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload)


def _manager_of(app: FastAPI) -> ModelManager | None:
    """The manager of a service whose engine runs in this process; None while it starts."""
    state = getattr(app.state, "service", None)
    return None if state is None else state.models


def _options(settings: Settings) -> dict[str, Any]:
    """Options that both servers share."""
    return {
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "ws": "none",
        "timeout_keep_alive": settings.keep_alive_s,
        "timeout_graceful_shutdown": settings.drain_s,  # asyncio accepts fractions of a second
    }
