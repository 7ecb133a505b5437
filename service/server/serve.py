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
from service.logs import SENTENCE
from service.metrics import Closed
from service.models.manager import ModelManager
from service.process import raise_file_limit
from service.server.binding import log_running
from service.server.connections import NO_LIMITS, Connections, Limits
from service.server.hosts import with_hosts
from service.server.listening import refuse_new
from service.server.protocol import Protocol
from service.server.proxy import behind_proxy
from service.settings import Settings

log = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"

#: What people read after the first Ctrl-C.
STOPPING = "stopping when accepted requests are answered; Ctrl-C again stops at once"

#: Returns the manager of the models, None while the service starts.
FindManager = Callable[[], ModelManager | None]
#: Returns the file of API keys, None without one.
FindKeys = Callable[[], KeyFile | None]

#: Reloads under way: the event loop keeps no reference to tasks.
_reloads: set[asyncio.Task[Any]] = set()

#: While the server stops: seconds between two looks; seconds for the kernel's last connections to arrive here, and for
#: clients that have connected and not sent a request.
STOP_POLL_S = 0.02
LAST_ACCEPT_S = 0.1
LAST_REQUEST_S = 0.5

#: File descriptors that connections leave to the rest of the service.
SPARE_FILES = 256

#: Maximum number of new connections accepted in one iteration of the event loop.
MAX_ACCEPTED = 256


class Server(uvicorn.Server):
    """uvicorn's server, which leaves signals to ``run``, and accepts all new connections in an iteration of the loop.

    libuv (since 1.45) accepts one for each iteration. Under load, when iterations are long, new clients would wait for
    seconds.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        limits: Limits = NO_LIMITS,
        delay_s: float = 0.0,
        on_listening: Callable[[], None] = lambda: None,
        on_stopping: Callable[[], None] = lambda: None,
        on_closed: Callable[[Closed], None] = lambda _: None,
    ) -> None:
        """``on_stopping`` is called ``delay_s`` before connections are refused, ``on_closed`` as of ``Connections``."""
        super().__init__(config)
        self.server_state: Connections = Connections(limits, on_closed)
        self._delay_s, self._on_listening, self._on_stopping = delay_s, on_listening, on_stopping

    def stop(self, number: int) -> None:
        """Finish the requests and stop; new ones are still accepted for a while, but not after a person's SIGINT."""
        if number == signal.SIGINT:
            self._delay_s = 0.0
        self.should_exit = True

    def stop_now(self) -> None:
        """Stop without waiting for any request."""
        self.should_exit = self.force_exit = True

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
        self._looking = self._loop.create_task(self.server_state.readers.keep_looking())
        self._looking.add_done_callback(log_failure)
        self._on_listening()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Say that the service stops, accept connections for a while, and finish what was accepted."""
        self.server_state.stopping = True
        self._on_stopping()
        for connection in self.server_state.connections:
            _ours(connection).end_soon()
        await self._wait(self._delay_s)
        for each in self._copies:
            refuse_new(each)
        await self._wait(LAST_ACCEPT_S)
        for each in self._copies:
            self._loop.remove_reader(each)
            self._accept(each)
        for server in self.servers:
            server.close()
        for each in self._copies:
            each.close()
        await self._wait(LAST_REQUEST_S, self._all_end)
        aborting = self._loop.create_task(self._abort_all())
        await super().shutdown(sockets)
        aborting.cancel()
        self._looking.cancel()

    async def _abort_all(self) -> None:
        """Close all connections at once if the server has to end at once: uvicorn would wait for them."""
        while not self.force_exit:
            await asyncio.sleep(STOP_POLL_S)
        for connection in list(self.server_state.connections):
            _ours(connection).transport.abort()

    async def _wait(self, most_s: float, over: Callable[[], bool] = lambda: False) -> None:
        """Wait until the time is up, until ``over``, or until the server stops at once."""
        give_up = self._loop.time() + most_s
        while not over() and self._loop.time() < give_up and not self.force_exit:
            await asyncio.sleep(STOP_POLL_S)

    def _all_end(self) -> bool:
        """Whether all connections are closed, or will be after a response."""
        ended = [_ours(each).end() for each in [*self.server_state.connections]]
        return not self._connecting and all(ended)

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


def run(app: FastAPI, sockets: list[socket.socket], admin: socket.socket | None, settings: Settings) -> None:
    """Serve ``app`` from this process alone until SIGTERM or SIGINT. Raises SystemExit when the start fails."""
    public = public_server(app, settings, partial(log_running, sockets[0]))
    with asyncio.Runner(loop_factory=public.config.get_loop_factory()) as runner:
        runner.run(_serve(public, sockets, admin, settings, partial(_manager_of, app), partial(_keys_of, app)))


def run_with(app: FastAPI, sockets: list[socket.socket], settings: Settings, on_listening: Callable[[], None]) -> None:
    """Serve ``app`` at ``sockets`` until SIGTERM; ``on_listening`` is called once requests are taken."""
    public = public_server(app, settings, on_listening)
    with asyncio.Runner(loop_factory=public.config.get_loop_factory()) as runner:
        runner.run(_serve_at(public, sockets))


def public_server(app: FastAPI, settings: Settings, on_listening: Callable[[], None] = lambda: None) -> Server:
    """The server of the public application."""
    options = _options(settings) | {
        "http": Protocol,
        "proxy_headers": bool(settings.forwarded_allow_ips),
        "forwarded_allow_ips": settings.forwarded_allow_ips,
    }
    return Server(
        uvicorn.Config(with_hosts(behind_proxy(app, settings), settings), **options),
        limits=limits_of(settings),
        delay_s=settings.drain_delay_s,
        on_listening=on_listening,
        on_stopping=partial(_set_stopping, app),
        on_closed=partial(_count_closed, app),
    )


def limits_of(settings: Settings) -> Limits:
    """The limits of one API process: its share of those of the service, and no more connections than files."""
    connections = min(settings.max_connections // settings.processes, raise_file_limit() - SPARE_FILES)
    return Limits(max(1, connections), settings.min_read_rate, settings.max_unread_bytes // settings.processes)


def _set_stopping(app: FastAPI) -> None:
    app.state.service.stopping = True


def _count_closed(app: FastAPI, reason: Closed) -> None:
    app.state.service.metrics.closed_connections.labels(reason).inc()


def _ours(connection: object) -> Protocol:
    """A connection as what it is; uvicorn's types allow any protocol."""
    assert isinstance(connection, Protocol)
    return connection


async def _serve_at(public: Server, sockets: list[socket.socket]) -> None:
    handle_signals(public.stop, lambda: None)  # its supervisor kills it if it has to end at once
    await public.serve(sockets)


async def _serve(
    public: Server,
    sockets: list[socket.socket],
    admin_socket: socket.socket | None,
    settings: Settings,
    manager: FindManager,
    keys: FindKeys,
) -> None:
    admin = admin_server(manager, keys, settings)

    def stop(number: int) -> None:
        if public.should_exit:
            public.stop_now()
        else:
            log.info("stopping", extra={SENTENCE: STOPPING})
        public.stop(number)
        admin.stop(number)

    handle_signals(stop, partial(reload_all, manager, keys))
    if admin_socket is None:
        await public.serve(sockets)
        return
    async with serving_admin(admin, admin_socket):
        await public.serve(sockets)


def admin_server(manager: FindManager, keys: FindKeys, settings: Settings) -> Server:
    """The server of the operator's application."""
    options = {"http": Protocol, "lifespan": "off", **_options(settings)}
    return Server(uvicorn.Config(create_admin(manager, keys), **options))


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
