import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message

from service.app import create_app
from service.errors import ServiceError
from service.settings import Settings
from tests.service.api.conftest import (
    GIF,
    JSON,
    LONG,
    MODELS,
    Series,
    accepted,
    ask,
    idle,
    read_series,
    running,
    series,
    to_body,
    value,
)

STAGES = ("request", "queue", "compute", "encode")


@pytest.fixture
def fresh(settings: Settings) -> Iterator[TestClient]:
    """A service that nobody has asked anything."""
    with TestClient(create_app(settings)) as client:
        yield client


def errors(samples: Series) -> dict[tuple[str, str], float]:
    """The errors that were counted, by model and reason."""
    return {
        (dict(labels)["model"], dict(labels)["reason"]): number
        for (name, labels), number in samples.items()
        if name == "genserve_errors_total" and number
    }


def counts(samples: Series) -> Series:
    """The series that only requests change: not gauges, and not the processor time."""
    ends, process = ("_total", "_count", "_bucket"), ("process_", "genserve_process_")
    return {key: number for key, number in samples.items() if key[0].endswith(ends) and not key[0].startswith(process)}


def test_every_series_exists_at_zero_from_the_start(fresh: TestClient, settings: Settings) -> None:
    response = fresh.get("/metrics")
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = series(fresh)
    for model in MODELS:
        for stage in STAGES:
            assert value(samples, f"{stage}_seconds_count", model=model) == 0
            assert value(samples, f"{stage}_seconds_bucket", model=model, le="0.0001") == 0
        totals = ("images", "steps", "device_seconds", "split_calls", "out_of_memory", "padding_rows")
        gauges = ("queued_rows", "live_rows", "accepted_work_seconds")
        for name in (*gauges, "tick_rows_count", *(f"{total}_total" for total in totals)):
            assert value(samples, name, model=model) == 0
        for where in ("queued", "running"):
            assert value(samples, "dropped_rows_total", model=model, stage=where) == 0
        assert ("genserve_cost_ratio", frozenset({("model", model)})) in samples
        (info,) = (labels for name, labels in samples if name == "genserve_model_info" and ("model", model) in labels)
        told = dict(info)
        assert told["version"] == fresh.get(f"/models/{model}").json()["version"]
        assert told["sha256"].startswith(told["version"])
        assert len(told["sha256"]) == 64
        assert value(samples, "table_rows", model=model) == Settings.model_fields["table_rows"].default
        assert value(samples, "accepted_work_limit_seconds", model=model) == settings.max_queue_ms / 1000
        assert value(samples, "model_ready", model=model) == 1
    for model in (*MODELS, "_unknown"):
        for reason in ServiceError.codes():
            assert value(samples, "errors_total", model=model, reason=reason) == 0
    assert not any(counts(samples).values())


def test_the_exposition_names_and_describes_every_family(client: TestClient) -> None:
    families = list(text_string_to_metric_families(client.get("/metrics").text))
    assert {family.name for family in families} >= {
        *(f"genserve_{stage}_seconds" for stage in STAGES),
        "genserve_tick_rows",
        "genserve_queued_rows",
        "genserve_live_rows",
        "genserve_images",
        "genserve_errors",
        "genserve_dropped_rows",
        "genserve_split_calls",
        "genserve_out_of_memory",
        "genserve_padding_rows",
        "genserve_cost_ratio",
        "genserve_steps",
        "genserve_device_seconds",
        "genserve_table_rows",
        "genserve_accepted_work_seconds",
        "genserve_cancelled",
        "genserve_failed_rows",
        "genserve_engine_threads",
        "genserve_build_info",
        "process_cpu_seconds",
        "genserve_model_ready",
        "genserve_model_info",
        "genserve_model_changes",
    }
    for family in families:
        assert family.name.startswith(("genserve_", "process_"))
        assert family.documentation
    assert len({family.name for family in families}) == len(families)


def test_a_request_is_counted_once_in_every_stage(fresh: TestClient) -> None:
    for n, headers in ((1, {}), (3, JSON), (4, {"Accept": "application/x-npy"})):
        assert fresh.post("/generate/vae", json={"n": n}, headers=headers).status_code == 200
    assert fresh.get("/generate/vae", params={"n": 2}).status_code == 200
    assert fresh.post("/interpolate", json={"model": "vae", "frames": 5}, headers=GIF).status_code == 200
    samples = series(fresh)
    for stage in STAGES:
        assert value(samples, f"{stage}_seconds_count", model="vae") == 5
        assert value(samples, f"{stage}_seconds_sum", model="vae") > 0
        assert value(samples, f"{stage}_seconds_count", model="ddpm") == 0
    assert value(samples, "images_total", model="vae") == 15
    # A decoder is called once a picture.
    assert value(samples, "tick_rows_sum", model="vae") == 15
    assert value(samples, "cost_ratio", model="vae") > 0
    assert value(samples, "images_total", model="ddpm") == 0
    assert errors(samples) == {}


def test_a_diffusion_is_called_once_a_step(fresh: TestClient) -> None:
    fresh.post("/generate/ddpm", json={"n": 2, "steps": 7})
    fresh.post("/generate/ddpm", json={"steps": 3, "solver": "ddpm"})
    assert value(series(fresh), "tick_rows_sum", model="ddpm") == 2 * 7 + 3


def sums(samples: Series, model: str) -> dict[str, float]:
    """Seconds in all, by stage."""
    return {stage: value(samples, f"{stage}_seconds_sum", model=model) for stage in STAGES}


@pytest.mark.parametrize(
    ("model", "body"),
    [("vae", {}), ("vae", {"n": 64, "scale": 16}), ("ddpm", {"steps": 1}), ("ddpm", {"n": 8, "steps": 100})],
)
def test_the_stages_of_a_request_add_up_to_it(fresh: TestClient, model: str, body: dict[str, int]) -> None:
    for _ in range(5):
        assert fresh.post(f"/generate/{model}", json=body, headers=JSON).status_code == 200
    spent = sums(series(fresh), model)
    assert min(spent.values()) > 0
    assert spent["queue"] + spent["compute"] + spent["encode"] == pytest.approx(spent["request"], rel=0.05)


def test_time_counts_for_the_stage_that_it_was_spent_in(fresh: TestClient) -> None:
    fresh.post("/generate/ddpm", json={"n": 8, "steps": 500})
    computed = sums(series(fresh), "ddpm")
    assert fresh.post("/generate/vae", json={"n": 64, "scale": 24}).status_code == 200
    encoded = sums(series(fresh), "vae")
    # A stall of a busy machine may fall into any stage; it does not make a thousandth a half.
    assert encoded["encode"] / encoded["compute"] > 10 * computed["encode"] / computed["compute"]


async def test_how_slowly_a_body_is_sent_is_nobodys_latency(settings: Settings) -> None:
    slowly_s = 0.3

    sent = asyncio.Event()

    async def receive() -> Message:
        if sent.is_set():
            await asyncio.Event().wait()
        await asyncio.sleep(slowly_s)
        sent.set()
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async with running(settings) as app:
        started = time.monotonic()
        assert (await ask(app, "/generate/vae", receive=receive)).status == 200
        took_s = time.monotonic() - started
        samples = read_series(app.state.service.metrics.expose().decode())
        assert 0 < value(samples, "request_seconds_sum", model="vae") <= took_s - 0.99 * slowly_s


def test_the_device_is_busy_for_as_long_as_it_computes(fresh: TestClient) -> None:
    fresh.post("/generate/ddpm", json={"n": 8, "steps": 200})
    samples = series(fresh)
    assert value(samples, "steps_total", model="ddpm") == 8 * 200
    assert value(samples, "steps_total", model="vae") == 0
    threads = value(samples, "engine_threads")
    busy = value(samples, "device_seconds_total", model="ddpm")
    assert 0 < busy <= threads * value(samples, "compute_seconds_sum", model="ddpm") * 1.01
    assert value(samples, "device_seconds_total", model="vae") == 0


async def test_accepted_work_is_told_while_there_is_some(settings: Settings) -> None:
    async with running(settings) as app:
        busy = asyncio.create_task(ask(app, "/generate/ddpm", to_body(LONG)))
        await accepted(app)
        samples = read_series(app.state.service.metrics.expose().decode())
        assert value(samples, "accepted_work_seconds", model="ddpm") > 0
        assert value(samples, "accepted_work_seconds", model="vae") == 0
        busy.cancel()
        with pytest.raises(asyncio.CancelledError):
            await busy
        await idle(app)
        samples = read_series(app.state.service.metrics.expose().decode())
        assert value(samples, "accepted_work_seconds", model="ddpm") == 0


@pytest.mark.parametrize(
    "headers", [{}, {"Accept": "text/event-stream"}, {"Prefer": "wait=60"}], ids=["plain", "stream", "job"]
)
async def test_what_is_given_up_is_counted_by_its_reason(settings: Settings, headers: dict[str, str]) -> None:
    async with running(settings) as app:
        leaves = asyncio.Event()
        leaves.set()
        await ask(app, "/generate/ddpm", to_body(LONG), headers=headers, leaves=leaves)
        late = await ask(app, "/generate/ddpm", to_body({**LONG, "timeout_ms": 30}), headers=headers)
        assert b"deadline-exceeded" in late.body
        samples = read_series(app.state.service.metrics.expose().decode())
        for reason in ("client-left", "too-late"):
            assert value(samples, "cancelled_total", model="ddpm", reason=reason) == 1
            assert value(samples, "cancelled_total", model="vae", reason=reason) == 0


REFUSED: list[tuple[str, str, dict[str, Any], tuple[str, str]]] = [
    ("POST", "/generate/vae", {"json": {"n": 0}}, ("vae", "invalid-field")),
    ("POST", "/generate/vae", {"json": {"steps": 3}}, ("vae", "invalid-field")),
    ("GET", "/generate/ddpm", {"params": {"n": "x"}}, ("ddpm", "invalid-field")),
    ("POST", "/generate/ddpm", {"content": b"{"}, ("ddpm", "bad-request")),
    ("POST", "/generate/ddpm", {"content": b" " * 70_000}, ("ddpm", "body-too-large")),
    ("POST", "/generate/vae", {"headers": {"Accept": "text/html"}}, ("vae", "not-acceptable")),
    ("POST", "/generate/nope", {}, ("_unknown", "unknown-model")),
    ("GET", "/generate/nope", {"params": {"n": "x"}}, ("_unknown", "unknown-model")),
    ("GET", "/models/nope", {}, ("_unknown", "unknown-model")),
    ("POST", "/interpolate", {"json": {"model": "nope"}}, ("_unknown", "unknown-model")),
    ("POST", "/interpolate", {"json": {"model": "vae", "steps": 3}}, ("vae", "invalid-field")),
    (
        "POST",
        "/interpolate",
        {"json": {"model": "ddpm"}, "headers": {"Accept": "text/html"}},
        ("ddpm", "not-acceptable"),
    ),
    ("POST", "/interpolate", {"content": b"["}, ("_unknown", "bad-request")),
    ("POST", "/interpolate", {"json": {"frames": 3}}, ("_unknown", "invalid-field")),
]


def test_every_refusal_is_counted_with_its_model_and_reason(fresh: TestClient) -> None:
    expected: dict[tuple[str, str], float] = {}
    for method, path, what, key in REFUSED:
        assert fresh.request(method, path, **what).status_code >= 400
        expected[key] = expected.get(key, 0) + 1
        assert errors(series(fresh)) == expected
    assert value(series(fresh), "images_total", model="vae") == 0
    assert value(series(fresh), "request_seconds_count", model="vae") == 0


def test_no_request_adds_a_series(fresh: TestClient) -> None:
    before = series(fresh).keys()
    for number in range(100):
        fresh.post(f"/generate/model-{number}")
        fresh.get(f"/generate/model-{number}")
        fresh.post("/interpolate", json={"model": f"model-{number}"})
        fresh.get(f"/models/model-{number}")
        fresh.post(f"/path-{number}")
        fresh.post("/generate/vae", json={f"field-{number}": 1})
    for method, path, what, _ in REFUSED:
        fresh.request(method, path, **what)
    fresh.post("/generate/_unknown")
    after = series(fresh)
    assert after.keys() == before
    assert errors(after)["_unknown", "unknown-model"] == 400 + 4 + 1


def test_health_and_metrics_count_nothing(fresh: TestClient) -> None:
    before = counts(series(fresh))
    for path in ("/health/live", "/health/ready", "/metrics", "/models", "/models/vae", "/docs", "/openapi.json"):
        assert fresh.get(path).status_code == 200
    assert counts(series(fresh)) == before
