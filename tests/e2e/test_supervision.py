"""Processes that die, hang or load what they should not: the service goes on, and no request is lost."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import read_manifest
from tests.e2e.process import SECONDS, Service, descendants, serving
from tests.service.artefacts import Decode, write_diffusion, write_one_shot

pytestmark = pytest.mark.slow

LONG = {"seed": 3, "steps": 400, "solver": "ddim"}


class Hangs(Decode):
    """A decoder that never returns."""

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        total = torch.zeros(1)
        while bool((total >= 0).all()):
            total = total + 1
        return torch.tanh(z @ self.weight + total).reshape(-1, 1, 8, 8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    write_one_shot(folder)
    write_diffusion(folder)
    return folder


def until(condition: Callable[[], object], what: str) -> None:
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up, what
        time.sleep(0.02)


def serving_engine(service: Service) -> int:
    """The engine process that computes; the other one is the spare."""
    ready = [json.loads(line) for line in service.log if '"message": "engine ready"' in line]
    pid: int = ready[-1]["pid"]
    return pid


@contextmanager
def asked(service: Service, clients: int = 4) -> Iterator[list[tuple[int, bytes]]]:
    """Clients that ask all the time; their answers are complete afterwards."""
    answers: list[tuple[int, bytes]] = []
    stop = threading.Event()

    def ask(seed: int) -> None:
        while not stop.is_set():
            answer = service.client.post("/generate/ddpm", json=LONG | {"seed": seed})
            answers.append((answer.status_code, answer.content))

    with ThreadPoolExecutor(clients) as pool:
        asking = [pool.submit(ask, seed) for seed in range(clients)]
        try:
            yield answers
        finally:
            stop.set()
        for each in asking:
            each.result()


def require_all_right(service: Service, answers: list[tuple[int, bytes]], clients: int = 4) -> None:
    """Every answer is the picture of its seed."""
    right = {service.client.post("/generate/ddpm", json=LONG | {"seed": seed}).content for seed in range(clients)}
    assert len(answers) >= clients
    assert {status for status, _ in answers} == {200}
    assert {content for _, content in answers} <= right


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("spare", [True, False])
def test_an_engine_that_dies_or_hangs_costs_no_request(weights: Path, end: int, spare: bool) -> None:
    with serving(weights, engine_timeout_s=1.0, deterministic=True, max_bucket=4, spare_engine=spare) as service:
        until(lambda: len(service.processes("engine-")) == 1 + spare, "no spare")
        with asked(service) as answers:
            until(lambda: len(answers) >= 4, "no answer")
            victim = serving_engine(service)
            os.kill(victim, end)
            until(lambda: victim not in service.processes("engine-").values(), "the engine lives")
            done = len(answers)
            until(lambda: len(answers) >= done + 4, "no answer after the death")
        require_all_right(service, answers)
        until(lambda: service.client.get("/health/ready").status_code == 200, "never ready again")


def test_five_deaths_in_a_minute_end_the_service_with_the_reason(weights: Path) -> None:
    with serving(weights) as service:
        killed: set[int] = set()
        while service.process.poll() is None:
            for pid in {*service.processes("engine-").values()} - killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        assert service.process.wait(SECONDS) == 1
        service._reader.join(SECONDS)
        assert any("5 processes died within 60 s" in line for line in service.log), "".join(service.log)


def test_a_model_that_hangs_is_refused_alone_at_start(weights: Path) -> None:
    write_one_shot(weights, "stuck", Hangs())
    with serving(weights, load_timeout_s=5.0) as service:
        ready = service.client.get("/health/ready")
        assert ready.status_code == 503
        assert "within 5 s" in ready.json()["refused"]["stuck"]
        for model in ("vae", "ddpm"):
            assert service.client.post(f"/generate/{model}", json={"seed": 1}).status_code == 200
        assert service.client.post("/generate/stuck", json={"seed": 1}).status_code == 503


def test_a_version_that_hangs_is_refused_at_reload_and_disturbs_nobody(weights: Path) -> None:
    before = read_manifest(weights / "vae").version
    with serving(weights, load_timeout_s=3.0, admin_port=0, deterministic=True, max_bucket=4) as service:
        until(lambda: len(service.processes("engine-")) == 2, "no spare")
        serving_before = serving_engine(service)
        write_one_shot(weights, "vae", Hangs())
        with asked(service) as answers:
            refused = service.client.post(f"http://127.0.0.1:{service.admin_port}/models/vae/reload")
        assert refused.status_code == 422
        assert "within 3 s" in refused.json()["detail"]
        require_all_right(service, answers)
        assert service.client.get("/health").json()["models"]["vae"] == before
        assert serving_before in service.processes("engine-").values()


def test_a_file_that_never_ends_is_refused_at_once(weights: Path) -> None:
    artifact = weights / "vae" / read_manifest(weights / "vae").artifact.file
    artifact.unlink()
    os.mkfifo(artifact)
    with serving(weights) as service:
        assert "vae" in service.client.get("/health").json()["refused"]
        assert service.client.post("/generate/ddpm", json={"seed": 1}).status_code == 200


@pytest.mark.parametrize(("manifest", "said"), [(None, "no models: `genserve add FOLDER`"), ("{}", "model refused")])
def test_the_log_says_why_nothing_is_served(tmp_path: Path, manifest: str | None, said: str) -> None:
    if manifest is not None:
        (tmp_path / "fox").mkdir()
        (tmp_path / "fox" / "manifest.json").write_text(manifest)
    with serving(tmp_path) as service:
        reasons = [line for line in service.log if "no models" in line or "model refused" in line]
        assert len(reasons) == 1
        assert said in reasons[0]


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_dead_or_hanging_api_process_is_replaced_and_the_others_go_on(weights: Path, end: int) -> None:
    with serving(weights, api_servers=2) as service:
        apis = service.processes("api-")
        assert set(apis) == {"api-0", "api-1"}
        os.kill(apis["api-0"], end)
        until(lambda: service.processes("api-").get("api-0") not in (None, apis["api-0"]), "not replaced")
        for _ in range(20):  # connections come to both; those of the new process wait until it listens
            with service.connect() as connection:
                connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert connection.recv(64).startswith(b"HTTP/1.1 200")
        assert service.processes("api-")["api-1"] == apis["api-1"]


def test_two_engines_give_the_pictures_of_one(weights: Path) -> None:
    settings = {"deterministic": True, "max_bucket": 4, "engine_threads": 1}
    asks = [{"seed": seed, "n": 3, "steps": 20} for seed in range(4)]

    def pictures(service: Service) -> list[bytes]:
        return [service.client.post("/generate/ddpm", json=ask).content for ask in asks]

    with serving(weights, **settings) as service:
        alone = pictures(service)
    with serving(weights, engines=2, **settings) as service:
        assert pictures(service) == alone


def test_no_process_survives_the_supervisor(weights: Path) -> None:
    with serving(weights) as service:
        processes = list(descendants(service.process.pid))
        assert len(processes) >= 3
        service.process.kill()
        until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in processes), "a process is left")


def test_a_new_version_serves_and_the_old_one_is_unloaded(weights: Path) -> None:
    with serving(weights, admin_port=0, api_servers=2) as service:
        admin = f"http://127.0.0.1:{service.admin_port}"
        for shift in (1.0, 2.0):
            version = write_one_shot(weights, "vae", Shifted(shift)).version
            assert service.client.post(f"{admin}/models/vae/reload").json()["version"] == version
            answer = service.client.post("/generate/vae", json={"seed": 1})
            assert answer.headers["x-model-version"] == version
        assert service.client.post(f"{admin}/models/vae/unload").status_code == 200
        until(lambda: service.client.post("/generate/vae", json={"seed": 1}).status_code == 404, "still served")


class Shifted(Decode):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(self.weight.detach() + shift)
