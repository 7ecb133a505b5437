"""Attacks with input that is slow to parse: the worst that a request may contain, for each parser.

Each one is sent again and again on a few connections. What others wait for tells whether the event loop was blocked.
"""

import asyncio
import base64
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress

from benchmarks.attacks.watch import Demand, watching
from benchmarks.connection import Connection
from benchmarks.server import Service

#: Connections, and seconds for each input.
CONNECTIONS, SECONDS = 4, 3.0
#: Longest wait of a good request, in milliseconds: a few inputs one after another, each within 20 ms.
MOST_MS = 250.0

HEAD = 60_000


def worst_inputs() -> Iterator[tuple[str, bytes]]:
    """By name, a request that is as slow to parse as one may be."""
    yield "accept", _post(b"{}", accept=b",".join([b"a/a"] * (HEAD // 4)))
    yield "accept, parameters", _post(b"{}", accept=b"a/a" + b";q=1" * (HEAD // 4))
    yield "accept, many lines", _request(b"POST /generate/quick-gan", [b"accept: a/a"] * 4000, b"{}")
    yield "headers", _request(b"POST /generate/quick-gan", [b"x: "] * (HEAD // 5), b"{}")
    yield "query, fields", _request(b"GET /generate/quick-gan?" + b"&".join([b"a"] * (HEAD // 2)))
    yield "query, values", _request(b"GET /generate/quick-gan?" + b"&".join([b"seed=1"] * (HEAD // 7)))
    yield "query, escapes", _request(b"GET /generate/quick-gan?class_label=" + b"%41" * (HEAD // 3))
    yield "query and body", _request(b"POST /generate/quick-gan?" + b"&".join([b"a=1"] * (HEAD // 4)), body=b"{}")
    yield "path", _request(b"GET /" + b"a/" * (HEAD // 2))
    yield "idempotency key", _post(b"{}", **{"idempotency-key": b'"' * HEAD})
    yield "prefer", _post(b"{}", prefer=b"wait=1, " * (HEAD // 8))
    yield "if-none-match", _request(b"GET /ui/index.html", [b"if-none-match: " + b'"a",' * (HEAD // 4)])
    yield "JSON, depth", _post(b"[" * 65_000)
    yield "JSON, objects", _post(b'{"a":' * 13_000)
    yield "JSON, keys", _post(b"{" + b",".join(b'"%d":1' % number for number in range(6500)) + b"}")
    yield "JSON, one key", _post(b"{" + b",".join([b'"n":1'] * 10_000) + b"}")
    yield "JSON, digits", _post(b'{"seed":' + b"9" * 65_000 + b"}")
    yield "JSON, surrogates", _post(b'{"class_label":"' + rb"\ud800" * 10_800 + b'"}')
    yield "JSON, seeds", _post(b'{"seed":[' + b",".join([b"1"] * 32_000) + b"]}")
    yield "JSON, quotes", _post(b'""' * 32_000)
    yield "latents", _post(b'{"latents":[' + b",".join([b"[0]"] * 16_000) + b"]}")
    yield "form, boundaries", _form(b"\r\n--b" * 12_000)
    yield "form, almost boundaries", _form(b"--b\r\n" + b"\r\n--" * 16_000)
    yield (
        "form, parts",
        _form(b"".join(b'--b\r\ncontent-disposition: form-data; name="a"\r\n\r\n\r\n' for _ in range(1200))),
    )
    yield (
        "form, header",
        _form(b"--b\r\ncontent-disposition: form-data" + b'; a="\\"' * 1000 + b"\r\n\r\n\r\n--b--\r\n"),
    )
    yield "form, padding", _form(b"--b" + b" " * 65_000)
    yield "content type", _post(b"--b\r\n", **{"content-type": b"multipart/form-data" + b'; a="\\"' * 7500})
    yield "base64", _reconstruct(b"A" * 6_600_000)
    yield "base64, lines", _reconstruct(b"\\n" * 3_300_000)
    yield "PNG, chunks", _reconstruct(base64.b64encode(_png(b"\0\0\0\0tEXt\0\0\0\0" * 60_000)))
    yield "PNG, pixels in pieces", _reconstruct(base64.b64encode(_png(b"\0\0\0\0IDAT\0\0\0\0" * 60_000)))


async def parsers(service: Service, scale: float) -> list[Demand]:
    """Each of the worst inputs, on some connections at a time."""
    demands = []
    for name, request in worst_inputs():
        async with watching(service.port) as watch:
            await asyncio.gather(*(_repeat(service.port, request, SECONDS * scale) for _ in range(CONNECTIONS)))
        demands.append(Demand(f"{name}: longest wait of a good request, ms", watch.longest_ms, MOST_MS))
        demands.append(Demand(f"{name}: good requests that failed", watch.failed, 0))
    return demands


async def _repeat(port: int, request: bytes, seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        connection = await Connection.open(port)
        with suppress(OSError):  # it may be refused before its end
            while connection.is_open and time.monotonic() < until:
                await connection.ask(request)
        connection.close()


def _request(line: bytes, headers: list[bytes] = [], body: bytes = b"") -> bytes:  # noqa: B006  (not changed)
    lines = [line + b" HTTP/1.1", b"host: localhost", b"content-length: %d" % len(body), *headers]
    return b"\r\n".join([*lines, b"", body])


def _post(body: bytes, **headers: bytes) -> bytes:
    return _request(
        b"POST /generate/quick-gan", [b"%b: %b" % (name.encode(), each) for name, each in headers.items()], body
    )


def _form(body: bytes) -> bytes:
    return _post(body, **{"content-type": b"multipart/form-data; boundary=b"})


def _reconstruct(picture: bytes) -> bytes:
    return _request(b"POST /generate/ddpm", body=b'{"strength": 0.5, "image": "%b"}' % picture)


def _png(chunks: bytes) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", 28, 28, 8, 0, 0, 0, 0)
    signature = b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + header + zlib.crc32(header).to_bytes(4)
    return signature + chunks + b"\0\0\0\0IEND\xae\x42\x60\x82"
