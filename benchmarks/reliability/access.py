"""R15: no shape of a request gets past the keys, and the search for a key does not tell how much of one is right."""

import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, variance

from benchmarks.attacks.watch import Demand
from benchmarks.reliability.bench import Form
from benchmarks.reliability.raw import exchange, request
from service.access.keys import KeyRing, line_of, new_secret, parse_keys

ROUTES = (
    "GET /models", "GET /models/ddpm", "GET /stats", "GET /metrics", "GET /jobs", "POST /generate/ddpm",
    "GET /generate/ddpm", "POST /interpolate", "POST /v1/images/generations", "POST /v2/models/ddpm/infer",
    "POST /sdapi/v1/txt2img",
)  # fmt: skip

#: Pairs of searches, in the long form and in the quick one; the statistic beyond which they differ (dudect's).
PAIRS, MOST_T = (10_000, 2000), 4.5
#: The slowest part of the searches, which others on the machine have made slow.
CROPPED = 0.1


def measure(form: Form) -> list[Demand]:
    """Try every shape on every route, then time the search."""
    secret = new_secret()
    with tempfile.TemporaryDirectory(prefix="genserve-keys-") as scratch:
        keys = Path(scratch, "keys.toml")
        keys.write_text(line_of("good", secret, ["generate", "metrics"]) + "\n")
        with form.service("open", api_keys_file=str(keys)) as service:
            tried = [(route, each) for route in ROUTES for each in shapes(route, secret)]
            passed = sum(not 400 <= exchange(service.port, each).status < 500 for _, each in tried)
            shut_out = exchange(service.port, request(b"GET /models", b"x-api-key: " + secret.encode())).status != 200
    return [
        Demand(f"of {len(tried)} requests without the key that were not refused", passed, 0),
        Demand("requests with the key that were refused", shut_out, 0),
        Demand("Welch's t of searches for keys, almost right and wrong", abs(_key_t(form.pick(*PAIRS))), MOST_T),
    ]


def shapes(route: str, secret: str) -> Iterator[bytes]:
    """Requests for a route that do not have the key, though some parts of the service might think so."""
    method, _, path = route.partition(" ")
    body = b"{}" if method == "POST" else b""

    def ask(target: str, *headers: str) -> bytes:
        return request(f"{method} {target}".encode(), *(each.encode() for each in headers), body=body)

    yield ask(path)
    yield ask(path, "authorization: Bearer")
    yield ask(path, f"authorization: Bearer {secret[:-1]}")
    yield ask(path, f"authorization: Bearer {secret}x", f"x-api-key: {secret[:8]}")
    yield ask(path, f"authorization: Digest {secret}")
    yield ask(f"{path}?key={secret}&api_key={secret}")
    yield ask(path, f"cookie: key={secret}", f"x-forwarded-authorization: Bearer {secret}")
    yield ask(path, "x-original-url: /health", "x-rewrite-url: /health", "x-http-method-override: GET")
    yield ask(path, "x-forwarded-for: 127.0.0.1", "forwarded: for=127.0.0.1", "x-real-ip: 127.0.0.1")
    yield ask(f"/health/..{path}")
    yield ask(f"/ui/..%2f..{path}")
    yield ask(f"/{path}")
    yield ask(f"{path}/")
    yield ask(f"{path}%2f..")
    yield ask(f"http://localhost/health#{path}".replace("/health#", ""))
    yield ask(path, f"authorization: Bearer {secret[:-1]}\x00")


def _key_t(pairs: int) -> float:
    secret = new_secret()
    ring = KeyRing(parse_keys(line_of("good", secret, ["generate"]).encode()))
    almost = secret[:-1] + ("A" if secret[-1] != "A" else "B")
    wrong = "".join(secrets.choice("abcdefgh") for _ in secret)
    return welch(*timed(pairs, lambda: ring.find(almost), lambda: ring.find(wrong)))


def timed(pairs: int, one: Callable[[], object], other: Callable[[], object]) -> tuple[list[int], list[int]]:
    """Nanoseconds of both, called in turn, without the slowest ones."""
    taken: tuple[list[int], list[int]] = ([], [])
    for _ in range(pairs):
        for each in (0, 1) if secrets.randbits(1) else (1, 0):
            began = time.perf_counter_ns()
            (one, other)[each]()
            taken[each].append(time.perf_counter_ns() - began)
    most = sorted(taken[0] + taken[1])[int(2 * pairs * (1 - CROPPED)) - 1]
    return [each for each in taken[0] if each <= most], [each for each in taken[1] if each <= most]


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's t of two samples; 0 if neither varies."""
    spread = variance(one) / len(one) + variance(other) / len(other)
    return (fmean(one) - fmean(other)) / spread**0.5 if spread else 0.0
