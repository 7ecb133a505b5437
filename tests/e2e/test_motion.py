"""Models in motion in a process of its own: signals, the two ports, and load."""

import json
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
import torch
from torch import Tensor, nn

from service.cli import main
from tests.e2e.process import SECONDS, Service, serving
from tests.service.artefacts import Decode, write_diffusion, write_one_shot

SWAPS = 20
BALLAST_MIB = 16


class Heavy(Decode):
    """As Decode, and so large that a version which stays shows."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rows = BALLAST_MIB * 2**20 // (64 * 4)
        self.ballast = nn.Parameter(torch.randn(rows, 64, generator=torch.Generator().manual_seed(seed)))

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(z @ self.weight + self.ballast[label]).reshape(-1, 1, 8, 8)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    folder = tmp_path / "weights"
    write_one_shot(folder)
    write_diffusion(folder)
    return folder


def version(service: Service, model: str = "vae") -> str:
    answer = service.client.post(f"/generate/{model}")
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-version"]


def wait_for_version(service: Service, wanted: str) -> None:
    give_up = time.monotonic() + SECONDS
    while version(service) != wanted:
        assert time.monotonic() < give_up, service.log


def resident_mib(service: Service) -> float:
    pages = int(Path(f"/proc/{service.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def test_a_hangup_reloads_what_changed(weights: Path) -> None:
    with serving(weights, engine_threads=1, max_bucket=8) as service:
        second = write_one_shot(weights, "vae", Heavy(0)).version
        assert version(service) != second
        service.process.send_signal(signal.SIGHUP)
        wait_for_version(service, second)
        assert service.admin_port == 0
        assert service.stop(signal.SIGTERM) == 0
        changes = [json.loads(line) for line in service.log if "model changed" in line]
        assert {each["model"]: each["outcome"] for each in changes} == {"vae": "swapped", "ddpm": "unchanged"}
        assert service.errors_logged() == []


def test_commands_come_from_a_terminal(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exposed = {"host": "0.0.0.0", "allow_anonymous": True}
    with serving(weights, engine_threads=1, max_bucket=8, admin_port=0, **exposed) as service:
        first, second = version(service), write_one_shot(weights, "vae", Heavy(0)).version
        port = ["--admin-port", str(service.admin_port)]
        assert main(["reload", "vae", *port]) == 0
        assert capsys.readouterr().out == f"vae: swapped, {first} -> {second}\n"
        assert main(["rollback", "vae", *port]) == 0
        assert version(service) == first
        # Wherever the public port listens, this one is the machine's own.
        sockets = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        listening = {local for _, local, _, state, *_ in sockets if state == "0A"}
        assert {each for each in listening if each.endswith(f":{service.admin_port:04X}")} == {
            f"0100007F:{service.admin_port:04X}"
        }
        assert service.stop(signal.SIGTERM) == 0
        with pytest.raises(httpx2.ConnectError):
            httpx2.get(f"http://127.0.0.1:{service.admin_port}/models")


def test_an_admin_port_that_is_taken_stops_the_start(weights: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(AssertionError, match="error: GENSERVE_ADMIN_PORT: "),
        serving(weights, admin_port=taken.getsockname()[1]),
    ):
        pass


@contextmanager
def hammering(service: Service, clients: int) -> Iterator[Counter[tuple[str, int, str]]]:
    """Clients that ask without a pause; counts answers by model, status and version."""
    answers: Counter[tuple[str, int, str]] = Counter()
    lock, stop = threading.Lock(), threading.Event()

    def ask(model: str) -> None:
        with httpx2.Client(base_url=str(service.client.base_url), timeout=SECONDS) as client:
            while not stop.is_set():
                answer = client.post(f"/generate/{model}", json={"n": 2})
                with lock:
                    answers[model, answer.status_code, answer.headers.get("x-model-version", "")] += 1

    threads = [threading.Thread(target=ask, args=(("vae", "ddpm")[number % 2],)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        stop.set()
        for thread in threads:
            thread.join(SECONDS)


@pytest.mark.slow
def test_no_request_fails_while_versions_alternate_and_their_memory_comes_back(weights: Path) -> None:
    """Both models change, twenty times each; rolling back goes to the version that was left last, so they alternate."""
    versions = {"vae": [write_one_shot(weights, "vae", Heavy(seed)).version for seed in (0, 1)]}
    versions["ddpm"] = [write_diffusion(weights, denoise=Shifting(seed)).version for seed in (0, 1)]
    with serving(weights, admin_port=0, max_bucket=8) as service:
        admin = httpx2.Client(base_url=f"http://127.0.0.1:{service.admin_port}", timeout=SECONDS)
        after: list[float] = []
        with admin, hammering(service, clients=8) as answers:
            for _ in range(SWAPS):
                for model, pair in versions.items():
                    change = admin.post(f"/models/{model}/rollback").json()
                    assert {change["version"], change["previous"]} == set(pair)
                after.append(resident_mib(service))
        assert {(model, status) for model, status, _ in answers} == {("vae", 200), ("ddpm", 200)}
        for model, pair in versions.items():
            assert {told for asked, _, told in answers if asked == model} == set(pair)
        # It differs by whole versions, of which one or two more may just be in use; those that stayed would be fifteen.
        assert max(after[-5:]) - max(after[:5]) < 5 * BALLAST_MIB, after
        assert service.stop(signal.SIGTERM) == 0
        assert service.errors_logged() == []


class Shifting(nn.Module):
    """A denoiser with weights to tell it by."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.1 * seed))

    def forward(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return torch.tanh(0.5 * x + self.level + 0.1 * t[:, None, None, None] * label[:, None, None, None])
