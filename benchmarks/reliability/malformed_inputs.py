"""Two hundred malformed requests, 25 in each of eight classes. Every one of them is the sender's mistake."""

import gzip
from collections.abc import Iterator, Mapping

from benchmarks.reliability.raw import HOST, request

GENERATE = b"POST /generate/ddpm"
#: Longer than what an error may repeat of its request.
LONG = "abcdefghij" * 60


def by_class() -> Mapping[str, list[bytes]]:
    """The requests of each class."""
    return {
        "JSON syntax": [_post(body) for body in _SYNTAX],
        "types": [_post(body) for body in _TYPES],
        "ranges": [_post(body) for body in _RANGES],
        "unicode": [*_unicode()],
        "headers": [*_headers()],
        "framing": [line.replace(b"HOST\r\n", HOST) for line in _FRAMING],
        "paths": [request(b"GET " + path.encode()) for path in _PATHS],
        "methods": [request(f"{method} {path}".encode()) for method, path in _METHODS],
    }


def _post(body: str | bytes) -> bytes:
    content = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    return request(GENERATE, b"content-type: application/json", body=content)


_SYNTAX = [
    "{", "}", "[", '{"n"', '{"n":', '{"n":}', '{"n": 1,}', '{"n": 1', "{n: 1}", "{'n': 1}",
    '{"n": 01}', '{"n": +1}', '{"n": 1.}', '{"n": .5}', '{"n": 0x10}', '{"n": NaN}', '{"n": Infinity}', '{"n": tru}',
    '{"a": "\\x"}', '{"a": "\t"}', '{"a": "\\u12"}', '{"n": 1} {"n": 2}', "[" * 5000, '{"a":' * 5000,
    f'{{"n": 1, {LONG}',
]  # fmt: skip

_TYPES = [
    "[]", '""', "1", "null", "true",
    '{"n": "many"}', '{"n": null, "steps": {}}', '{"n": []}', '{"n": 1.5}', '{"n": true, "steps": "ten"}',
    '{"seed": "x"}', '{"seed": {}}', '{"seed": 0.5}', '{"seeds": 3}', '{"seeds": [[1]]}',
    '{"seeds": ["a"]}', '{"steps": []}', '{"steps": 2.5}', '{"solver": 7}', '{"solver": []}',
    '{"guidance_scale": "big"}', '{"class_label": {}}', '{"class_label": [[]]}', '{"latents": "none"}',
    f'{{"n": "{LONG}"}}',
]  # fmt: skip

_RANGES = [
    '{"n": 0}', '{"n": -1}', '{"n": 65}', '{"n": 1e30}', f'{{"n": {"9" * 400}}}',
    '{"seed": -1}', '{"seed": 4294967296}', '{"seed": 1e300}', '{"seeds": []}', '{"seeds": [-1]}',
    '{"seeds": [1, 2], "n": 3}', '{"steps": 0}', '{"steps": -5}', '{"steps": 1000000}', '{"guidance_scale": -1}',
    '{"guidance_scale": 1e9}', '{"class_label": 10}', '{"class_label": -1}', '{"class_label": "spaceship"}',
    '{"scale": 0}', '{"scale": 10000}', '{"timeout_ms": 0}', '{"timeout_ms": -1}', '{"n": 64, "scale": 64}',
    f'{{"{LONG}": 1, "solver": "{LONG}", "class_label": "{LONG}"}}',
]  # fmt: skip

_BAD_TEXT = [
    b"\xff", b"\xfe\xff", b"\xc3\x28", b"\xc0\xaf", b"\xe2\x82", b"\xf0\x28\x8c\xbc", b"\xed\xa0\x80",
    b"\xf8\x88\x80\x80\x80", b"\x00", b"\xef\xbb\xbf\xff",
]  # fmt: skip
_ODD_TEXT = ["\u202e", "\u0085", "\udfff", "\U0001f600" * 300, "a\u0301" * 300, "\u200b", "\uffff", "\u2028"]


def _unicode() -> Iterator[bytes]:
    for text in _BAD_TEXT:
        yield _post(b'{"class_label": "' + text + b'"}')
    for odd in _ODD_TEXT:
        yield _post(f'{{"class_label": "{odd}"}}')
    for escaped in (r"\ud800", r"\udc00\ud800", r"\u0000", r"\ufffe" * 300):
        yield _post(f'{{"solver": "{escaped}"}}')
    for path in (b"/generate/%ff%fe", b"/generate/%c0%ae%c0%ae", b"/generate/" + b"%F0%9F%98%80" * 100):
        yield request(b"POST " + path, body=b"{}")


def _headers() -> Iterator[bytes]:
    for accept in (b"text/html", b"image/tiff", b"application/xml", b"audio/*", b"\xff\xfe", LONG.encode()):
        yield _with(b"accept: " + accept)
    yield _with(b"accept: image/png;q=0")
    for accept in (b"font/woff", b"video/mp4", b"application/pdf", b"multipart/mixed"):
        yield _with(b"accept: " + accept)
    for host in (b"evil.example", b"localhost.evil.example", b"a b", b"[::1", b"", LONG.encode()):
        yield GENERATE + b" HTTP/1.1\r\nhost: " + host + b"\r\ncontent-length: 2\r\n\r\n{}"
    yield _with(b"idempotency-key: " + b"k" * 5000)
    yield _with(b"sec-fetch-site: cross-site")
    for form in (b"--b\r\n\r\n\r\n--b--\r\n", b"--b\r\ncontent-disposition: form-data\r\n\r\n1\r\n--b--\r\n"):
        yield request(GENERATE, b"content-type: multipart/form-data; boundary=b", body=form)
    yield _with(b"x: " + b"a" * 200_000)
    yield _with(*(b"x-%d: 1" % number for number in range(20_000)))
    yield request(GENERATE, b"content-encoding: gzip", body=gzip.compress(b"{}", mtime=0))
    yield _with(b"transfer-encoding: gzip, chunked")


def _with(*headers: bytes) -> bytes:
    return request(GENERATE, *headers, body=b"{}")


_FRAMING = [
    b"hello\r\n\r\n",
    bytes(4096),
    bytes(range(128, 256)) * 4,
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET / HTTP/9.9\r\nHOST\r\n\r\n",
    b"GET / \r\nHOST\r\n\r\n",
    b"GET HTTP/1.1\r\nHOST\r\n\r\n",
    b"GET /\xff\xfe HTTP/1.1\r\nHOST\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    b"GET / HTTP/1.1\r\n: nameless\r\n\r\n",
    b"GET / HTTP/1.1\r\nx y: 1\r\nHOST\r\n\r\n",
    b"GET / HTTP/1.1\r\n\x01: 1\r\nHOST\r\n\r\n",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: -1\r\nHOST\r\n\r\n{}",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: two\r\nHOST\r\n\r\n{}",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: 0x2\r\nHOST\r\n\r\n{}",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: " + b"9" * 40 + b"\r\nHOST\r\n\r\n{}",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\nHOST\r\n\r\n{}",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\nHOST\r\n\r\n0\r\n\r\n",
    b"POST /generate/ddpm HTTP/1.1\r\nTransfer-Encoding: gzip\r\nHOST\r\n\r\n{}",
    b"POST /generate/ddpm HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHOST\r\n\r\nzz\r\n{}\r\n",
    b"POST /generate/ddpm HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHOST\r\n\r\n-2\r\n{}\r\n",
    b"POST /generate/ddpm HTTP/1.1\r\nTransfer-Encoding: chunked\r\nHOST\r\n\r\n" + b"f" * 30 + b"\r\n{}\r\n",
    b"POST /generate/ddpm HTTP/1.1\r\nContent-Length: 2, 2\r\nHOST\r\n\r\n{}",
]

_PATHS = [
    "/nope", "/generate", "/generate/", "/generate/nope", "/generate/ddpm/more", "/generate//ddpm", "//generate/ddpm",
    "/generate/../etc/passwd", "/generate/%2e%2e/%2e%2e/etc/passwd", "/generate/%00", "/ui/../service/app.py",
    "/ui/%2e%2e/index.html", "/ui/nope.js", "/docs/../../pyproject.toml", "/models/nope", "/models/ddpm/nope",
    "/jobs/nope", "/jobs/00000000-0000-0000-0000-000000000000", "/interpolate/ddpm", "/generate/ddpm%2fmore",
    "/v1/nope", "/.env", "/admin", f"/generate/{LONG}", f"/{LONG}",
]  # fmt: skip

_METHODS = [
    *((method, "/generate/ddpm") for method in ("DELETE", "PUT", "PATCH", "TRACE", "OPTIONS")),
    *((method, "/metrics") for method in ("POST", "DELETE", "PUT", "PATCH", "TRACE")),
    *((method, "/health/ready") for method in ("POST", "DELETE", "PUT", "PATCH", "PROPFIND")),
    *((method, "/interpolate") for method in ("GET", "DELETE", "PUT", "PATCH", "MKCOL")),
    ("POST", "/models"), ("DELETE", "/models/ddpm"), ("PUT", "/"), ("DELETE", "/openapi.json"),
    ("BREW", "/generate/ddpm"),
]  # fmt: skip
