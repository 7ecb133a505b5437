"""R14: abuse adds no series to the metrics, and a scrape is quick under load."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count

from benchmarks.attacks.watch import Demand
from benchmarks.clients import closed_loop
from benchmarks.load import p50_p99
from benchmarks.reliability.bench import Form
from benchmarks.reliability.malformed_inputs import by_class
from benchmarks.reliability.raw import exchange, request
from benchmarks.reliability.scraping import exposition, series

#: So many more series there may be after the abuse: those of a process that was started meanwhile.
MORE = 5
#: Requests of made-up names, in the long form and in the quick one.
NAMES = 2000, 200
SCRAPE_MS, SCRAPES, CONNECTIONS = 50.0, 40, 64


def measure(form: Form) -> list[Demand]:
    """Count the series before and after the abuse, and time scrapes during a flood."""
    with form.service("labels") as service, ThreadPoolExecutor(4) as pool:
        before = series(exposition(service.port))
        abuse = [each for inputs in by_class().values() for each in inputs] + made_up(form.pick(*NAMES))
        list(pool.map(partial(exchange, service.port), abuse))
        added = series(exposition(service.port)) - before
        flood = pool.submit(closed_loop, service.port, "/generate/ddpm", {"n": 1}, CONNECTIONS, form.pick(10, 4))
        waits_ms = [_scrape_ms(service.port) for _ in range(SCRAPES)]
        flood.result()
    return [
        Demand(f"series added by {len(abuse)} requests", len(added), MORE),
        Demand("median of scrapes during a flood, ms", p50_p99(waits_ms)[0], SCRAPE_MS),
    ]


def made_up(number: int) -> list[bytes]:
    """Requests with names of models, paths, methods, versions, keys and clients that occur only once."""
    names = (b"name-%d" % each for each in count())
    kinds = [
        lambda name: request(b"POST /generate/" + name, body=b"{}"),
        lambda name: request(b"GET /" + name),
        lambda name: request(name.replace(b"-", b"").upper() + b" /generate/ddpm"),
        lambda name: request(b"POST /generate/ddpm", b"x-request-id: " + name, body=b'{"version": "%b"}' % name),
        lambda name: request(b"POST /generate/ddpm", b"authorization: Bearer " + name, body=b'{"%b": 1}' % name),
        lambda name: request(b"GET /jobs/" + name, b"x-forwarded-for: " + name, b"user-agent: " + name),
        lambda name: request(b"POST /v2/models/%b/infer" % name, body=b"{}"),
        lambda name: request(b"POST /v1/images/generations", body=b'{"model": "%b", "prompt": "1"}' % name),
    ]
    return [kinds[each % len(kinds)](name) for each, name in zip(range(number), names, strict=False)]


def _scrape_ms(port: int) -> float:
    began = time.monotonic()
    exposition(port)
    return 1000 * (time.monotonic() - began)
