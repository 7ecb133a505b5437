import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from tests.service.api.conftest import refused


def test_the_numbers_of_the_window(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        client.post("/generate/vae", json={"n": 3})
        client.post("/generate/vae", json={"n": 2})
        client.post("/generate/vae", json={"n": 0})
        accepted = client.post("/generate/ddpm", headers={"Prefer": "respond-async"})
        client.get(accepted.headers["location"] + "/result", headers={"Prefer": "wait=30"})
        stats = client.get("/stats").json()
        assert stats["window_s"] == 60
        vae, ddpm = stats["models"]["vae"], stats["models"]["ddpm"]
        assert (vae["requests"], vae["pictures"], vae["errors"]) == (2, 5, {"invalid-field": 1})
        assert (vae["queued_rows"], vae["live_rows"]) == (0, 0)
        assert {stage: each["count"] for stage, each in vae["latency"].items()} == {
            "queue": 2,
            "compute": 2,
            "encode": 2,
            "request": 2,
        }
        assert vae["latency"]["compute"]["p50_ms"] > 0
        assert sum(vae["history"]["requests"]) == 2
        assert sum(vae["history"]["pictures"]) == 5
        assert len({len(each) for each in vae["history"].values()}) == 1
        assert (ddpm["requests"], ddpm["pictures"]) == (1, 1)


@pytest.mark.parametrize(
    ("window", "said"),
    [(1, "greater than or equal to 2"), (301, "equal to 300"), ("x", "integer")],
)
def test_a_window_that_is_not_kept(client: TestClient, window: int | str, said: str) -> None:
    assert said in refused(client.get("/stats", params={"window": window}), "#/window")
