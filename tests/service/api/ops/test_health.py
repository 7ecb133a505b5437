import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from service.app import create_app
from service.contract.manifest import MANIFEST_FILE, read_manifest, write_manifest
from service.engine.lane import Lane
from service.engine.rows import RowSpec
from service.settings import Settings
from tests.redis_server import SECONDS, redis_server
from tests.service.api.conftest import change_manifest, problem, series, value
from tests.service.api.linked_service import in_this_process
from tests.service.artefacts import write_one_shot
from tests.service.conftest import settings_of

Breakage = Callable[[Path], None]


def weights_file(model: Path) -> Path:
    (file,) = model.glob("model-*.pt")
    return file


def flip_a_byte(model: Path) -> None:
    file = weights_file(model)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(model: Path) -> None:
    file = weights_file(model)
    file.write_bytes(file.read_bytes()[:-1])


def empty(model: Path) -> None:
    weights_file(model).write_bytes(b"")


def lengthen(model: Path) -> None:
    with weights_file(model).open("ab") as file:
        file.write(b"\0")


def remove(model: Path) -> None:
    weights_file(model).unlink()


def exchange(model: Path) -> None:
    """Another model's weights, sound in themselves."""
    weights_file(model).write_bytes(weights_file(model.parent / "ddpm").read_bytes())


def link(model: Path) -> None:
    file = weights_file(model)
    file.symlink_to(file.rename(file.with_suffix(".bak")))


def break_manifest(model: Path) -> None:
    (model / MANIFEST_FILE).write_text('{"schema_version": 1,')


def empty_manifest(model: Path) -> None:
    (model / MANIFEST_FILE).write_text("")


def newer_schema(model: Path) -> None:
    text = (model / MANIFEST_FILE).read_text()
    (model / MANIFEST_FILE).write_text(text.replace('"schema_version": 1', '"schema_version": 2'))


def rename(model: Path) -> None:
    change_manifest(model, name="ddpm")


def other_latent(model: Path) -> None:
    """A manifest that promises another input than its network takes: only running it tells."""
    change_manifest(model, latent_shape=(5,))


def other_picture(model: Path) -> None:
    """A manifest that promises other pictures than its network gives."""
    change_manifest(model, image_shape=(1, 8, 4))


def other_family(model: Path) -> None:
    """A manifest of a diffusion over weights that cannot denoise."""
    artifact = read_manifest(model).artifact
    write_manifest(model, read_manifest(model.parent / "ddpm"))
    change_manifest(model, name="vae", artifact=artifact)


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (flip_a_byte, "vae/model-"),
        (cut_short, "vae/model-"),
        (empty, "vae/model-"),
        (lengthen, "vae/model-"),
        (remove, "vae/model-"),
        (exchange, "vae/model-"),
        (link, "vae/model-"),
        (break_manifest, f"vae/{MANIFEST_FILE}"),
        (empty_manifest, f"vae/{MANIFEST_FILE}"),
        (rename, f"vae/{MANIFEST_FILE}"),
        (newer_schema, f"vae/{MANIFEST_FILE}"),
        (other_latent, "vae"),
        (other_picture, "vae"),
        (other_family, "vae/model-"),
    ],
)
def test_a_damaged_model_is_refused_by_name_and_the_other_serves(
    settings: Settings, caplog: pytest.LogCaptureFixture, damage: Breakage, file: str
) -> None:
    damage(settings.weights_dir / "vae")
    with TestClient(create_app(settings)) as client:
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json()["status"] == "not ready"
        assert list(ready.json()["models"]) == ["ddpm"]
        (reason,) = ready.json()["refused"].values()
        assert reason.startswith(str(settings.weights_dir / file))
        assert "\n" not in reason
        assert client.get("/health/live").json() == {"status": "live"}

        assert client.post("/generate/ddpm").status_code == 200
        assert [card["name"] for card in client.get("/models").json()] == ["ddpm"]
        for refusal in (
            client.post("/generate/vae"),
            client.get("/models/vae"),
            client.post("/interpolate", json={"model": "vae"}),
        ):
            assert "could not be loaded" in problem(refusal, 503, "model-unavailable")["detail"]
        samples = series(client)
        assert value(samples, "model_ready", model="vae") == 0
        assert value(samples, "model_ready", model="ddpm") == 1
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert vars(record)["model"] == "vae"
    assert vars(record)["reason"] == reason


def test_readiness_names_the_versions_that_serve(client: TestClient) -> None:
    ready = client.get("/health/ready")
    assert ready.status_code == 200
    versions = {card["name"]: card["version"] for card in client.get("/models").json()}
    assert ready.json() == {"status": "ready", "models": versions, "refused": {}, "faults": {}}


def test_a_service_without_its_job_store_makes_pictures(settings: Settings) -> None:
    with redis_server() as server:
        changed = settings.model_copy(update={"store": server.url()})
        with TestClient(create_app(changed)) as client:

            def wait_for(status: str) -> dict[str, Any]:
                give_up = time.monotonic() + SECONDS
                while (ready := client.get("/health/ready")).json()["status"] != status:
                    assert ready.status_code == 200
                    assert time.monotonic() < give_up
                    time.sleep(0.02)
                told: dict[str, Any] = ready.json()
                return told

            wait_for("ready")
            server.kill()
            assert "job store (Redis)" in wait_for("degraded")["faults"]["jobs"]
            assert client.post("/generate/vae").status_code == 200
            for headers in ({"Prefer": "respond-async"}, {"Idempotency-Key": "one"}):
                rejected = client.post("/generate/vae", headers=headers)
                assert "cannot be used" in problem(rejected, 503, "store-unavailable")["detail"]
                assert int(rejected.headers["retry-after"]) >= 1
            server.start()
            assert wait_for("ready")["faults"] == {}
            assert client.post("/generate/vae", headers={"Prefer": "respond-async"}).status_code == 202


def test_a_folder_without_a_manifest_is_not_yet_a_model(settings: Settings) -> None:
    # The exporter writes it last of all: a folder without one is an export under way.
    (settings.weights_dir / "vae" / MANIFEST_FILE).unlink()
    (settings.weights_dir / "README.md").write_text("what is here")
    with TestClient(create_app(settings)) as client:
        ready = client.get("/health/ready")
        assert (ready.status_code, list(ready.json()["models"])) == (200, ["ddpm"])
        problem(client.post("/generate/vae"), 404, "unknown-model")


def test_an_empty_folder_serves_nothing_and_says_so(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert ready.status_code == 503
        assert ready.json() == {"status": "not ready", "models": {}, "refused": {}, "faults": {}}
        assert client.get("/models").json() == []
        assert "none" in problem(client.post("/generate/vae"), 404, "unknown-model")["detail"]
        assert client.get("/metrics").status_code == 200


def test_a_model_that_came_later_waits_for_a_restart(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        write_one_shot(settings.weights_dir, "late")
        problem(client.post("/generate/late"), 404, "unknown-model")
    with TestClient(create_app(settings)) as client:
        assert client.post("/generate/late").status_code == 200


@in_this_process
@pytest.mark.parametrize("threads", [1, 2])
def test_an_engine_that_has_lost_a_thread_is_neither_live_nor_ready_and_takes_no_work(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, threads: int
) -> None:
    """Nobody would ever be answered: a supervisor has to hear of it."""
    app = create_app(settings.model_copy(update={"engine_threads": threads, "drain_s": 0.01}))
    with TestClient(app) as client:
        engine = app.state.service.engine
        monkeypatch.setattr(Lane, "claim", lambda *_: 1 / 0)
        row = RowSpec(0, 0, 1.0, engine.deployments["vae"].model.plan())
        assert client.portal is not None
        client.portal.call(engine.submit, engine.deployments["vae"], [row])
        give_up = time.monotonic() + 10
        while (answer := client.get("/health/live")).status_code == 200:
            assert time.monotonic() < give_up
        assert (answer.status_code, answer.json()) == (503, {"status": "dead"})
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
        assert list(ready.json()["faults"]) == ["engine"]
        for path in ("/v2/health/ready", "/v2/health/live", "/v2/models/vae/ready"):
            assert client.get(path).status_code == 503
        refusal = problem(client.post("/generate/vae"), 503, "model-unavailable")
        assert "restarted" in refusal["detail"]
        assert value(series(client), "engine_threads") < threads
    ended = [record for record in caplog.records if record.message == "engine thread ended by a fault"]
    assert ended
    assert ended[0].exc_info is not None


@in_this_process
def test_a_background_step_that_fails_is_shown_and_the_service_stays_ready(settings: Settings) -> None:
    app = create_app(settings.model_copy(update={"watch_s": 0.001}))
    with TestClient(app) as client:
        settings.weights_dir.rename(settings.weights_dir.with_name("away"))
        give_up = time.monotonic() + 10
        while not (faults := client.get("/health/ready").json()["faults"]):
            assert time.monotonic() < give_up
        assert list(faults) == ["watch"]
        assert client.get("/health/ready").status_code == 200
        assert value(series(client), "background_failures_total", step="watch") > 0
        assert client.post("/generate/vae").status_code == 200


def test_health_tells_all_and_is_always_200(settings: Settings) -> None:
    flip_a_byte(settings.weights_dir / "vae")
    with TestClient(create_app(settings)) as client:
        assert client.get("/health/ready").status_code == 503
        found = client.get("/health")
        assert found.status_code == 200
        assert found.json() == {"live": True, **client.get("/health/ready").json()}
