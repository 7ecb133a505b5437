"""R4: two hundred malformed requests are answered at once with a problem document that repeats little of them."""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import unquote_to_bytes

from benchmarks.attacks.watch import Demand
from benchmarks.reliability.bench import Form
from benchmarks.reliability.malformed_inputs import by_class
from benchmarks.reliability.raw import Reply, exchange

#: Longest part of a request that an answer may repeat, in characters; and the longest wait for the answer, in seconds.
ECHO, MOST_S = 200, 1.0

log = logging.getLogger(__name__)


def measure(form: Form) -> list[Demand]:
    """Send each one on a connection of its own."""
    sent = by_class()
    with form.service("echo", body_timeout_s="0.5", allowed_hosts="localhost") as service:
        with ThreadPoolExecutor(4) as pool:
            replies = {name: list(pool.map(partial(exchange, service.port), each)) for name, each in sent.items()}
        logged = service.log.read_text(errors="replace")
    return judge(sent, replies, logged)


def judge(sent: Mapping[str, Sequence[bytes]], replies: Mapping[str, Sequence[Reply]], logged: str) -> list[Demand]:
    """The demands from the replies to each class, and the service's log."""
    demands = []
    for name, each in replies.items():
        bad = [*faulty(sent[name], each)]
        for fault, request, reply in bad:
            log.warning(
                "%s: %s: %r was answered with %d %r", name, fault, request[:200], reply.status, reply.body[:300]
            )
        demands.append(Demand(f"{name}: of {len(each)} requests without a proper problem document", len(bad), 0))
    slowest_s = max(reply.seconds for each in replies.values() for reply in each)
    demands.append(Demand("slowest answer, s", slowest_s, MOST_S))
    demands.append(Demand("tracebacks in the log", logged.count("Traceback"), 0))
    return demands


def faulty(sent: Sequence[bytes], replies: Sequence[Reply]) -> Iterator[tuple[str, bytes, Reply]]:
    """The replies that are not as they should be, each with the first reason."""
    for request, reply in zip(sent, replies, strict=True):
        if not 400 <= reply.status < 500:
            yield "no 4xx", request, reply
        elif not reply.is_problem:
            yield "no problem document", request, reply
        elif b"Traceback" in reply.body or b'File \\"' in reply.body:
            yield "a traceback", request, reply
        elif repeats(request, reply.body, ECHO):
            yield f"it repeats over {ECHO} characters", request, reply


def repeats(request: bytes, body: bytes, length: int) -> bool:
    """Whether a text of the JSON document ``body`` has more than ``length`` characters in a row of the request."""
    size = length + 1
    texts = [text for text in _texts(json.loads(body)) if len(text) >= size]
    windows = {text[at : at + size] for text in texts for at in range(len(text) - size + 1)}
    if not windows:
        return False
    forms = {request.decode(errors="replace"), unquote_to_bytes(request).decode(errors="replace")}
    return any(form[at : at + size] in windows for form in forms for at in range(len(form) - size + 1))


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.items() for part in each for text in _texts(part))
    elif isinstance(value, list):
        yield from (text for each in value for text in _texts(each))
