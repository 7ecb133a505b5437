"""Runs the public and the operator's application on one event loop, and handles signals."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import uvicorn
from fastapi import FastAPI

from service.access.keys import KeyFile, KeysRefused
from service.admin import create_admin
from service.background import log_failure
from service.models.manager import ModelManager
from service.server.hosts import with_hosts
from service.server.protocol import Protocol
from service.server.proxy import behind_proxy
from service.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

#: Returns the manager of the models, None while the service starts.
FindManager = Callable[[], ModelManager | None]
#: Returns the file of API keys, None without one.
FindKeys = Callable[[], KeyFile | None]

#: Reloads under way: the event loop keeps no reference to tasks.
_reloads: set[asyncio.Task[Any]] = set()

#: Maximum number of new connections accepted in one iteration of the event loop.
MAX_ACCEPTED = 256


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to ``run``, and accepts all new connections in an iteration of the loop.

    libuv (since 1.45) accepts one for each iteration. Under load, when iterations are long, new clients would wait for
    seconds.
    """

    def __init__(self, config: uvicorn.Config, on_listening: Callable[[], None] = lambda: None) -> None:
        super().__init__(config)
        self._on_listening = on_listening

    def stop(self, number: int) -> None:
        """Finish running requests and stop; a second SIGINT stops without waiting."""
        self.handle_exit(number, None)

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
        self._on_listening()

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


def run(app: FastAPI, admin: socket.socket | None, settings: Settings) -> None:
    """Serve ``app`` from this process alone until SIGTERM or SIGINT. Raises SystemExit when the start fails."""
    public = public_server(app, settings)
    with asyncio.Runner(loop_factory=public.config.get_loop_factory()) as runner:
        runner.run(_serve(public, admin, settings, partial(_manager_of, app), partial(_keys_of, app)))


def run_with(app: FastAPI, sockets: list[socket.socket], settings: Settings, on_listening: Callable[[], None]) -> None:
    """Serve ``app`` at ``sockets`` until SIGTERM; ``on_listening`` is called once requests are taken."""
    public = public_server(app, settings, on_listening)
    with asyncio.Runner(loop_factory=public.config.get_loop_factory()) as runner:
        runner.run(_serve_at(public, sockets))


def public_server(app: FastAPI, settings: Settings, on_listening: Callable[[], None] = lambda: None) -> Server:
    """The server of the public application."""
    options = _options(settings) | {
        "host": settings.host,
        "port": settings.port,
        "http": Protocol,
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": settings.forwarded_allow_ips,
    }
    return Server(uvicorn.Config(with_hosts(behind_proxy(app, settings), settings), **options), on_listening)


async def _serve_at(public: Server, sockets: list[socket.socket]) -> None:
    handle_signals(public.stop, lambda: None)
    await public.serve(sockets)


async def _serve(
    public: Server, admin_socket: socket.socket | None, settings: Settings, manager: FindManager, keys: FindKeys
) -> None:
    admin = admin_server(manager, keys, settings)

    def stop(number: int) -> None:
        public.stop(number)
        admin.stop(number)

    handle_signals(stop, partial(reload_all, manager, keys))
    if admin_socket is None:
        await public.serve()
        return
    async with serving_admin(admin, admin_socket):
        await public.serve()


def admin_server(manager: FindManager, keys: FindKeys, settings: Settings) -> Server:
    """The server of the operator's application."""
    return Server(uvicorn.Config(create_admin(manager, keys), lifespan="off", **_options(settings)))


@asynccontextmanager
async def serving_admin(admin: Server, listener: socket.socket) -> AsyncIterator[None]:
    """``admin`` answers at ``listener``."""
    log.info("admin port", extra={"port": listener.getsockname()[1]})
    beside = asyncio.create_task(admin.serve([listener]))
    beside.add_done_callback(log_failure)
    try:
        yield
    finally:
        admin.should_exit = True
        await beside


def handle_signals(stop: Callable[[int], None], reload: Callable[[], None]) -> None:
    """SIGTERM and SIGINT call ``stop`` with their number, SIGHUP calls ``reload``."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    loop.add_signal_handler(signal.SIGHUP, reload)


def reload_all(manager: FindManager, keys: FindKeys) -> None:
    """Read the API keys again, and have the manager reload what changed, unless the service is starting."""
    key_file = keys()
    if key_file is not None:
        with contextlib.suppress(KeysRefused):  # logged
            key_file.reload()
    found = manager()
    if found is not None:
        task = asyncio.create_task(found.reload_all())
        _reloads.add(task)
        task.add_done_callback(_reloads.discard)
        task.add_done_callback(log_failure)


def _manager_of(app: FastAPI) -> ModelManager | None:
    """The manager of a service whose engine runs in this process; None while it starts."""
    state = getattr(app.state, "service", None)
    return None if state is None else state.models


def _keys_of(app: FastAPI) -> KeyFile | None:
    state = getattr(app.state, "service", None)
    return None if state is None else state.key_file


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
