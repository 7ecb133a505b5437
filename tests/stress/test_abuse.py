"""Whatever clients do, the next one is served."""

import json
import re
import select
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.e2e.process import SECONDS, Service, post, read_to_end, reset, serving

pytestmark = pytest.mark.slow

REQUESTS = 10_000
SENDERS = 16
LONG = post("/generate/ddpm", json.dumps({"n": 64, "steps": 1000}).encode())

Send = Callable[[Service, Random], None]


GOOD: list[tuple[str, str, dict[str, Any]]] = [
    ("POST", "/generate/vae", {}),
    ("GET", "/generate/vae", {"params": {"n": 3, "scale": 4, "class_label": "bag"}}),
    ("POST", "/generate/vae", {"json": {"n": 64}, "headers": {"Accept": "application/json"}}),
    ("POST", "/generate/ddpm", {"json": {"n": 2, "steps": 9, "solver": "ddpm"}}),
    ("POST", "/generate/ddpm", {"json": {"class_label": 1, "guidance_scale": 3.5}}),
    ("POST", "/interpolate", {"json": {"model": "ddpm", "frames": 6}, "headers": {"Accept": "image/gif"}}),
    ("GET", "/metrics", {}),
    ("GET", "/models/ddpm", {}),
    ("GET", "/health/ready", {}),
]
INVALID: list[tuple[int, str, str, dict[str, Any]]] = [
    (400, "POST", "/generate/vae", {"content": b"{"}),
    (400, "POST", "/interpolate", {"content": b"\xff"}),
    (400, "POST", "/generate/vae", {"content": b"[" * 60_000}),
    (404, "POST", "/generate/nope", {}),
    (404, "POST", "/interpolate", {"json": {"model": "nope"}}),
    (404, "GET", "/nope", {}),
    (405, "DELETE", "/generate/vae", {}),
    (406, "POST", "/generate/vae", {"headers": {"Accept": "text/html"}}),
    (413, "POST", "/generate/ddpm", {"content": b" " * 100_000}),
    (422, "POST", "/generate/ddpm", {"json": {"n": 65}}),
    (422, "POST", "/generate/ddpm", {"json": {"steps": 1001, "class_label": "shoe"}}),
    (422, "POST", "/generate/vae", {"json": {f"field-{number}": 1 for number in range(1000)}}),
    (422, "GET", "/generate/vae", {"params": {"seed": -1}}),
    (422, "POST", "/interpolate", {"json": {"model": "vae", "frames": 1}}),
]


def good(service: Service, random: Random) -> None:
    """A request that must be answered."""
    method, path, what = random.choice(GOOD)
    response = service.client.request(method, path, **what)
    assert response.status_code == 200, response.text


def invalid(service: Service, random: Random) -> None:
    """A request that must be refused."""
    status, method, path, what = random.choice(INVALID)
    response = service.client.request(method, path, **what)
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"


def abandoned(service: Service, random: Random) -> None:
    """A request whose sender leaves before its answer, or before its end."""
    sent = random.choice([LONG, LONG[: random.randrange(len(LONG))], post("/generate/vae", b"{}")])
    connection = service.connect()
    connection.sendall(sent)
    random.choice([type(connection).close, reset])(connection)


def cancelled(service: Service, random: Random) -> None:
    """A request whose sender leaves while it computes."""
    connection = service.connect()
    connection.sendall(LONG)
    time.sleep(random.uniform(0.0, 0.05))
    random.choice([type(connection).close, reset])(connection)


def expired(service: Service, random: Random) -> None:
    """A request that gives too little time: refused at once or given up in time, with its work."""
    body = {"n": 64, "steps": 1000, "timeout_ms": random.randint(1, 30)}
    response = service.client.post("/generate/ddpm", json=body)
    assert (response.status_code, response.json()["code"]) in {(504, "deadline-exceeded"), (503, "too-late")}


def test_good_bad_abandoned_and_late_requests_at_once(service: Service) -> None:
    files = service.open_files()
    random = Random(0)
    every = [good, invalid, abandoned, cancelled, expired]
    kinds: list[Send] = random.choices(every, weights=[3, 3, 2, 1, 1], k=REQUESTS)
    seeds = [random.getrandbits(64) for _ in kinds]
    assert min(Counter(kinds).values()) > REQUESTS / 12
    with ThreadPoolExecutor(SENDERS) as senders:
        list(senders.map(lambda kind, seed: kind(service, Random(seed)), kinds, seeds))
    service.wait_until_idle()
    assert service.client.post("/generate/ddpm").status_code == 200
    assert service.sample("errors_total") > 0
    # The client's own connections are all that is left open.
    service.wait_until_closed(files + SENDERS + 1)
    assert service.process.poll() is None
    service.stop(signal.SIGTERM)
    assert service.errors_logged() == []


def test_nobody_who_left_keeps_a_place_in_the_queue(weights: Path) -> None:
    # The queue takes one request, so that a single place that is not given back shuts it for ever.
    with serving(weights, engine_threads=1, max_queue_ms=1e-6, max_request_ms=1e9) as service:
        for number in range(50):
            with service.connect() as connection:
                connection.sendall(LONG)
                # It computes, or is refused because the one before has not been missed yet.
                while not service.sample("live_rows") and not select.select([connection], [], [], 0)[0]:
                    assert service.process.poll() is None
                if number % 2:
                    reset(connection)
        give_up = time.monotonic() + SECONDS
        while (response := service.client.post("/generate/ddpm")).status_code == 503:
            assert time.monotonic() < give_up, response.text
        assert response.status_code == 200


HOST = b"Host: localhost\r\n"
MALFORMED: dict[str, bytes] = {
    "noise": bytes(Random(1).randbytes(4096)),
    "zeros": bytes(4096),
    "text": b"hello\r\n\r\n",
    "empty lines": b"\r\n" * 100,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /health/live\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n" + HOST + b"\r\n",
    "no version": b"GET / \r\n" + HOST + b"\r\n",
    "small letters": b"get / http/1.1\r\n" + HOST + b"\r\n",
    "odd method": b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n",
    "no path": b"GET HTTP/1.1\r\n" + HOST + b"\r\n",
    "star": b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT": b"CONNECT test:443 HTTP/1.1\r\n" + HOST + b"\r\n",
    "CONNECT to a path": b"CONNECT / HTTP/1.1\r\n\r\n",
    "absolute": b"GET http://test/health/live HTTP/1.1\r\n" + HOST + b"\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n",
    "half an escape": b"GET /generate/%zz%a HTTP/1.1\r\n" + HOST + b"\r\n",
    "NUL in the path": b"GET /generate/%00 HTTP/1.1\r\n" + HOST + b"\r\n",
    "upwards": b"GET /generate/../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n",
    "endless path": b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n",
    "header without colon": b"GET / HTTP/1.1\r\nHost test\r\n\r\n",
    "header with NUL": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "space before colon": b"GET / HTTP/1.1\r\nHost : test\r\n\r\n",
    "folded header": b"GET / HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)) + b"\r\n",
    "long header": b"GET / HTTP/1.1\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
    "bytes in Accept": b"POST /generate/vae HTTP/1.1\r\nAccept: \xff\xfe;q=\xff\r\n" + HOST + b"\r\n",
    "length below zero": b"POST /generate/vae HTTP/1.1\r\nContent-Length: -1\r\n\r\n{}",
    "length in words": b"POST /generate/vae HTTP/1.1\r\nContent-Length: two\r\n\r\n{}",
    "length too large": b"POST /generate/vae HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\n\r\n{}",
    "two lengths": b"POST /generate/vae HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "length and chunks": b"POST /generate/vae HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\n",
    "odd encoding": b"POST /generate/vae HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "chunk size in words": b"POST /generate/vae HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "chunk too large": b"POST /generate/vae HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\n{}\r\n",
    "websocket": b"GET /generate/vae HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n" + HOST + b"\r\n",
    "h2c": b"GET /generate/vae HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" + HOST + b"\r\n",
    "h2c, then close": b"GET /generate/vae HTTP/1.1\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n" + HOST + b"\r\n",
    "h2c of HTTP/1.0": b"GET /generate/vae HTTP/1.0\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n" + HOST + b"\r\n",
    "odd expectation": b"POST /generate/vae HTTP/1.1\r\nExpect: tea\r\nContent-Length: 2\r\n" + HOST + b"\r\n{}",
    "good, then noise": post("/generate/vae", b"{}") + b"\x00\xff" * 100,
}
#: What is no HTTP at all is told so.
NO_HTTP = {
    "noise", "zeros", "text", "TLS", "HTTP/2", "HTTP/9.9", "no path", "bytes in the path", "header without colon",
    "length below zero", "length in words", "length too large", "two lengths", "length and chunks",
    "chunk size in words", "chunk too large",
}  # fmt: skip

#: What ends before it is a request, or is refused while more of it is on its way, may get no answer.
SILENT = {"empty lines", "HTTP/0.9", "endless path", "many headers", "long header"}


def test_malformed_requests(service: Service) -> None:
    files = service.open_files()
    for name, sent in MALFORMED.items():
        with service.connect() as connection:
            with suppress(OSError):  # it may be refused, and the connection closed, before all of it is sent
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
            answer = read_to_end(connection)
        first = answer.split(b"\r\n")[0]
        assert name in SILENT or answer, f"{name}: no answer"
        assert not answer or re.match(rb"HTTP/1\.1 [234]\d\d ", answer), f"{name}: {first!r}"
        assert name not in NO_HTTP or first == b"HTTP/1.1 400 Bad Request", f"{name}: {first!r}"
        assert service.client.get("/health/live").status_code == 200, name
    service.wait_until_idle()
    service.wait_until_closed(files + 1)
    assert service.client.post("/generate/vae").status_code == 200
    service.stop(signal.SIGTERM)
    assert service.errors_logged() == []
