"""Short forms of benches in benchmarks/reliability, against tiny models: their faults are judged by the same code."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from benchmarks.reliability import access, fuzz, malformed, series
from benchmarks.reliability.malformed_inputs import by_class
from benchmarks.reliability.raw import exchange, request
from benchmarks.reliability.scraping import exposition
from benchmarks.reliability.scraping import series as series_of
from service.access.keys import line_of, new_secret
from tests.e2e.process import Service, serving

LIMITS: dict[str, object] = {
    "engine_threads": 1,
    "spare_engine": "false",
    "max_bucket": 8,
    "max_queue_ms": 1e9,
    "max_lag_ms": 1e9,
    "body_timeout_s": 0.5,
}


@pytest.fixture(scope="module")
def service(tiny_weights: Path) -> Iterator[Service]:
    with serving(tiny_weights, **LIMITS) as running:
        yield running
        assert running.errors_logged() == []


def test_malformed_requests_get_problem_documents_and_add_no_series(service: Service) -> None:
    before = series_of(exposition(service.port))
    sent = by_class()
    with ThreadPoolExecutor(4) as pool:
        replies = {name: list(pool.map(partial(exchange, service.port), each)) for name, each in sent.items()}
        list(pool.map(partial(exchange, service.port), series.made_up(40)))
    # A slow machine is slow: only the bench judges seconds.
    demands = malformed.judge(sent, replies, "".join(service.log))
    assert [demand for demand in demands if not demand.met and "slowest" not in demand.text] == []
    assert len(series_of(exposition(service.port)) - before) <= series.MORE


def test_mutated_requests_cause_no_server_error(service: Service) -> None:
    with ThreadPoolExecutor(4) as pool:
        for reply in pool.map(partial(exchange, service.port), fuzz.mutants(8, seed=1)):
            assert not reply.is_server_error, reply
            assert reply.status or not reply.head, reply
    assert service.client.post("/generate/vae").status_code == 200


def test_no_shape_of_a_request_gets_past_the_keys(tiny_weights: Path, tmp_path: Path) -> None:
    secret = new_secret()
    keys = tmp_path / "keys.toml"
    keys.write_text(line_of("good", secret, ["generate", "metrics"]) + "\n")
    with serving(tiny_weights, api_keys_file=keys, **LIMITS) as service:
        for route in access.ROUTES:
            for shape in access.shapes(route, secret):
                reply = exchange(service.port, shape)
                assert 400 <= reply.status < 500, (shape, reply)
        allowed = exchange(service.port, request(b"GET /models", b"x-api-key: " + secret.encode()))
        assert allowed.status == 200
