"""How an order is answered: now (``answers``), as events (``event_stream``), or as a job (``job_answers``)."""

import hashlib
from collections.abc import Coroutine
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from service.api.order import Order
from service.api.request.response_mode import ResponseMode
from service.api.response.answers import answer
from service.api.response.event_stream import answer_as_events
from service.api.response.job_answers import answer_as_job
from service.api.state import State, client_of
from service.store.keys import KeptAnswer, Key


def respond(request: Request, state: State, order: Order, mode: ResponseMode) -> Coroutine[Any, Any, Response]:
    """Compute ``order`` and answer ``request`` in that ``mode``: once for each Idempotency-Key.

    Raises as ``answers.answer``, and JobsFull, KeyInUse, KeyReused, StoreUnavailable.
    """
    return _respond(request, state, order, mode) if mode.key is None else _respond_once(request, state, order, mode)


def _respond(request: Request, state: State, order: Order, mode: ResponseMode) -> Coroutine[Any, Any, Response]:
    if mode.wait_s is not None:
        return answer_as_job(request, state, order, mode)
    return answer_as_events(request, state, order) if mode.live else answer(request, state, order)


async def _respond_once(request: Request, state: State, order: Order, mode: ResponseMode) -> Response:
    assert mode.key is not None
    key = Key(client_of(request), mode.key)
    kept = await state.keyed.claim(key, _fingerprint(order, mode))
    if kept is not None:
        return _replay(kept)
    try:
        response = await _respond(request, state, order, mode)
    except BaseException:
        await state.keyed.release(key)
        raise
    await state.keyed.keep(key, KeptAnswer(response.status_code, tuple(response.raw_headers), bytes(response.body)))
    return response


def _fingerprint(order: Order, mode: ResponseMode) -> bytes:
    """Equal for equal requests only: a digest of all fields, defaults included, and of the files."""
    asked = repr(
        (order.path, order.asked, order.uploads and order.uploads.digest(), mode.media, mode.live, mode.wait_s)
    )
    return hashlib.blake2b(asked.encode(), digest_size=16).digest()


def _replay(kept: KeptAnswer) -> Response:
    response = Response(kept.body, kept.status)
    response.raw_headers = [*kept.headers, (b"idempotent-replayed", b"true")]
    return response
