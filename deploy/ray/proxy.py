"""What Ray Serve's HTTP proxies answer when they have no answer of a replica.

By themselves they answer 500 when a replica dies, and plain text when a queue is full. Each proxy loads this with
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deploy.ray.proxy:middlewares. It must not import torch.
"""

import logging
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

from pydantic_core import to_json
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.api.http.problem import PROBLEM_JSON, problem_of
from service.api.http.request_id import HEADER, request_id
from service.retry_after import spread

log = logging.getLogger(__name__)

#: How often a request is given to a replica: the second one may be on the same lost node.
ATTEMPTS = 3
#: Bytes of a body that are kept for another attempt.
MOST_KEPT = 16 * 2**20
#: The least: ``spread`` adds to it.
RETRY_AFTER_S = 1

BUSY = "replicas-busy", "No replica takes more requests now."
LOST = "replica-lost", "The replica that had the request died. It may have begun with it."


def middlewares() -> list[Middleware]:
    """What each proxy puts in front of its own application."""
    return [Middleware(Repeat)]


class Repeat:
    """Gives a request to another replica when the first one dies before it answers; no client sees a 500 for that.

    The picture of a seed is the same anywhere. What creates a job is not repeated, because the dead replica's job may
    be in the store: the client gets a 503, and sends it again with its Idempotency-Key.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body, answer = Body(receive), Answer(scope, send)
        for _ in range(ATTEMPTS):
            body.rewind()
            try:
                await self._app({**scope, "headers": [*scope["headers"]]}, body.receive, answer.send)
            except Exception:
                if answer.started:
                    raise
                log.exception("a request failed in the proxy")
            if answer.started or body.client_left:
                return
            if not body.whole or _begins_job(scope):
                break
        await answer.refuse(*LOST)


class Body:
    """The messages of a request's body, which can be received again. ``whole``: they were all kept."""

    def __init__(self, receive: Receive) -> None:
        self._receive, self._kept, self._next, self._bytes = receive, list[Message](), 0, 0
        self.client_left = False

    @property
    def whole(self) -> bool:
        """Whether another attempt receives all of the body."""
        return self._bytes <= MOST_KEPT

    def rewind(self) -> None:
        """Begin again."""
        self._next = 0

    async def receive(self) -> Message:
        """The next message."""
        if self._next < len(self._kept):
            self._next += 1
            return self._kept[self._next - 1]
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.client_left = True
            return message
        self._bytes += len(message.get("body", b""))
        if self.whole:
            self._kept.append(message)
            self._next += 1
        else:
            self._kept.clear()
            self._next = 0
        return message


class Answer:
    """The answer of a replica, or a problem document where Ray Serve's own text is."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self.started = self._refused = False

    async def send(self, message: Message) -> None:
        """Send a message of a replica or of the proxy."""
        if message["type"] == "http.response.start":
            if _is_rays_refusal(message):
                self._refused = True
                await self.refuse(*BUSY)
            self.started = True
            # Ray's proxy adds the X-Request-Id that the service has sent already.
            message = {**message, "headers": [*dict.fromkeys(map(tuple, message["headers"]))]}
        if not self._refused:
            await self._send(message)

    async def refuse(self, code: str, detail: str) -> None:
        """Answer with 503: the client may send the request again."""
        id, status = request_id(self._scope), HTTPStatus.SERVICE_UNAVAILABLE
        wait_s = spread(RETRY_AFTER_S)
        detail = f"{detail} Try again in {wait_s} s."
        problem: Any = problem_of(id, status, code, detail, ())
        headers = {b"content-type": PROBLEM_JSON.encode(), b"cache-control": b"no-store", HEADER: id.encode()}
        if self._scope["path"].startswith("/v2/"):  # the Open Inference Protocol's form
            headers[b"content-type"], problem = b"application/json", {"error": detail}
        headers[b"retry-after"] = str(wait_s).encode()
        await self._send({"type": "http.response.start", "status": int(status), "headers": [*headers.items()]})
        await self._send({"type": "http.response.body", "body": to_json(problem)})


def _is_rays_refusal(message: MutableMapping[str, Any]) -> bool:
    """Whether a response is the proxy's own: the service has no errors in plain text."""
    kind = dict(message["headers"]).get(b"content-type", b"")
    return message["status"] in (408, 429, 503) and kind.startswith(b"text/plain")


def _begins_job(scope: Scope) -> bool:
    return any(name == b"prefer" and b"respond-async" in value.lower() for name, value in scope["headers"])
