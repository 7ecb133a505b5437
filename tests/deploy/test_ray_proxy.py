"""What stands in front of Ray Serve's proxies, without Ray: an application that behaves as they do."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest
from starlette.types import Receive, Scope, Send

from deploy.ray.policy import WORK, PredictedWork
from deploy.ray.proxy import ATTEMPTS, MOST_KEPT, Repeat


class Proxy:
    """Ray's: it starts no response when the replica dies, which ``dead`` attempts do after reading the body."""

    def __init__(self, dead: int = 0, status: int = 200, kind: str = "image/png") -> None:
        self.dead, self._start = dead, {"type": "http.response.start", "status": status}
        self._headers = [(b"content-type", kind.encode()), (b"x-request-id", b"1"), (b"x-request-id", b"1")]
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        if len(self.bodies) > self.dead:
            await send({**self._start, "headers": self._headers})
            await send({"type": "http.response.body", "body": b"picture"})


async def ask(proxy: Proxy, path: str = "/generate/gan", headers: Mapping[str, str] | None = None) -> httpx2.Response:
    transport = httpx2.ASGITransport(Repeat(proxy))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, content=b"fields", headers=headers)


@pytest.mark.parametrize("dead", range(ATTEMPTS))
async def test_a_request_is_repeated_with_its_body(dead: int) -> None:
    proxy = Proxy(dead)
    answer = await ask(proxy)
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert proxy.bodies == [b"fields"] * (dead + 1)
    assert answer.headers.get_list("x-request-id") == ["1"]


async def test_a_request_that_no_replica_survives_is_a_problem_document() -> None:
    proxy = Proxy(dead=ATTEMPTS)
    answer = await ask(proxy)
    assert (answer.status_code, answer.json()["code"]) == (503, "replica-lost")
    assert answer.headers["content-type"] == "application/problem+json"
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert len(proxy.bodies) == ATTEMPTS


async def test_a_job_is_not_begun_twice() -> None:
    proxy = Proxy(dead=1)
    answer = await ask(proxy, headers={"Prefer": "respond-async, wait=5"})
    assert (answer.status_code, len(proxy.bodies)) == (503, 1)


async def test_a_body_that_is_too_large_to_keep_is_not_repeated() -> None:
    proxy = Proxy(dead=1)
    transport = httpx2.ASGITransport(Repeat(proxy))
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post("/encode/vae", content=bytes(MOST_KEPT + 1))
    assert (answer.status_code, len(proxy.bodies), len(proxy.bodies[0])) == (503, 1, MOST_KEPT + 1)


@pytest.mark.parametrize("status", [408, 429, 503])
async def test_rays_own_refusal_becomes_a_problem_document(status: int) -> None:
    answer = await ask(Proxy(status=status, kind="text/plain; charset=utf-8"))
    assert (answer.status_code, answer.json()["code"]) == (503, "replicas-busy")
    assert answer.headers["retry-after"] in ("1", "2")
    assert f"in {answer.headers['retry-after']} s" in answer.json()["detail"]


async def test_the_services_refusal_is_passed_on() -> None:
    answer = await ask(Proxy(status=429, kind="application/problem+json"))
    assert (answer.status_code, answer.content) == (429, b"picture")


async def test_the_open_inference_protocol_has_its_own_form() -> None:
    answer = await ask(Proxy(dead=ATTEMPTS), "/v2/models/gan/infer")
    assert [*answer.json()] == ["error"]


@pytest.mark.parametrize(("work", "wanted"), [({"a": 3.0, "b": 5.0}, 4.0), ({"a": 0.0}, 0.0), ({}, 3), (None, 3)])
def test_replicas_follow_predicted_work(work: Mapping[str, float] | None, wanted: float) -> None:
    context: Any = SimpleNamespace(aggregated_metrics=None if work is None else {WORK: work}, target_num_replicas=3)
    assert PredictedWork(target_s=2.0)(context) == (wanted, {})


def test_a_target_must_be_positive() -> None:
    with pytest.raises(ValueError, match="target_s"):
        PredictedWork(0.0)
