"""Calls of a Redis server: each within a time limit, and at once an error while the server does not answer."""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from service.errors import StoreUnavailable
from service.store.shared.rows import StoreRefused

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that a call may take.
CALL_S = 2.0
#: Seconds after a failure in which calls are rejected at once: requests must not each wait for a server that hangs.
PAUSE_S = 0.5
#: Connections of one process.
CONNECTIONS = 16
#: Calls that wait at a time; further ones are rejected at once.
MOST_WAITING = 256

# A script that only removes or ends must run where Redis has no memory left; one that adds must not begin.
_TEXT = files("service.store.redis").joinpath("script.lua").read_text()
_ANY, _ADDING = f"#!lua flags=allow-oom\n{_TEXT}", f"#!lua\n{_TEXT}"


class Connection:
    """The server at ``url``, which is connected to at the first call; logs and errors never show its password."""

    def __init__(self, url: str) -> None:
        # The time limits are ours: on Python 3.11 the library's for sending hides that a task was cancelled.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=None,
            socket_timeout=None,
            socket_connect_timeout=None,
            retry=Retry(NoBackoff(), 0),
            protocol=2,
            client_name="genserve",
        )
        self.address = address_of(url)
        self._redis = Redis(connection_pool=pool)
        self._scripts = {adding: self._redis.register_script(text) for adding, text in ((False, _ANY), (True, _ADDING))}
        self._waiting = 0
        self._reason = ""
        self._pause_until = 0.0
        self._answers_since: float | None = None

    @property
    def answering_s(self) -> float:
        """Seconds for which every call has been answered."""
        return 0.0 if self._answers_since is None else asyncio.get_running_loop().time() - self._answers_since

    async def run(self, name: str, *arguments: object, adding: bool = False) -> Any:  # noqa: ANN401
        """Call a function of the script. Raises StoreUnavailable."""
        packed = msgspec.msgpack.encode(_strings(arguments))
        return await self._call(lambda: self._scripts[adding](args=[name, packed]))

    async def command(self, *parts: str | int) -> Any:  # noqa: ANN401
        """Send a command. Raises StoreUnavailable."""
        return await self._call(lambda: self._redis.execute_command(*parts))  # type: ignore[no-untyped-call]

    async def check(self) -> None:
        """Raise StoreRefused where the server rejects us; one that does not answer is waited for."""
        try:
            async with asyncio.timeout(CALL_S):
                version = (await self._redis.info("server"))["redis_version"]
        except (AuthenticationError, NoPermissionError, ResponseError) as failure:
            raise StoreRefused(f"Redis at {self.address} rejects the service: {failure}") from None
        except (RedisError, OSError, TimeoutError) as failure:
            self._failed(failure)
        else:
            if int(str(version).partition(".")[0]) < 7:
                raise StoreRefused(f"Redis at {self.address} has version {version}; the job store needs 7 or later.")

    async def close(self) -> None:
        """Close all connections; later calls are rejected."""
        self._pause_until = math.inf
        await self._redis.aclose(close_connection_pool=True)

    async def _call(self, work: Callable[[], Awaitable[T]]) -> T:
        clock = asyncio.get_running_loop().time
        if self._waiting >= MOST_WAITING or clock() < self._pause_until:
            raise self._unavailable()
        self._waiting += 1
        try:
            async with asyncio.timeout(CALL_S):
                done = await work()
        except (RedisError, OSError, TimeoutError) as failure:
            self._failed(failure)
            if not isinstance(failure, ResponseError):
                self._pause_until, self._answers_since = clock() + PAUSE_S, None
            raise self._unavailable() from None
        finally:
            self._waiting -= 1
        if self._reason:
            log.warning("the job store can be used again", extra={"address": self.address})
        self._reason = ""
        if self._answers_since is None:
            self._answers_since = clock()
        return done

    def _failed(self, failure: Exception) -> None:
        if not self._reason:  # a repeated failure is logged once
            reason = str(failure) or type(failure).__name__
            log.error("the job store cannot be used", extra={"address": self.address, "reason": reason})
        self._reason = "it refuses the call" if isinstance(failure, ResponseError) else "it does not answer"

    def _unavailable(self) -> StoreUnavailable:
        reason = self._reason or "too many calls wait for it"
        return StoreUnavailable(f"The job store (Redis) cannot be used at the moment: {reason}.", retry_after_s=1)


def _strings(value: object) -> object:
    """``value`` with its bytes as MessagePack's strings of any bytes: Redis' reader knows no binary data."""
    if isinstance(value, bytes):
        return msgspec.Raw(b"\xdb" + len(value).to_bytes(4, "big") + value)
    return [_strings(each) for each in value] if isinstance(value, (list, tuple)) else value


def address_of(url: str) -> str:
    """``url`` without user and password."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
