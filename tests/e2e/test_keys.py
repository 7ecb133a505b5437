"""API keys of a service in several processes: reloaded, shared, and asked for on every connection."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from service.access.keys import line_of
from tests.e2e.process import SECONDS, Service, descendants, read_to_end, serving
from tests.service.artefacts import write_diffusion

pytestmark = pytest.mark.slow


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


GOOD, ADMIN, SLOW = "the-good-key", "the-admin-key", "the-slow-key"
LINES = [line_of("good", GOOD, ["generate"]), line_of("admin", ADMIN, ["admin", "metrics"])]
LINES.append(line_of("slow", SLOW, ["generate"], rate=0.001))


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    path.write_text("\n".join(LINES))
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_diffusion(folder)
    return folder


@pytest.fixture(scope="module")
def service(weights: Path, keys: Path) -> Iterator[Service]:
    settings = {"api_servers": 2, "engine_threads": 1, "spare_engine": False, "admin_port": 0, "client_streams": 2}
    with serving(weights, api_keys_file=keys, max_request_ms=1e9, **settings) as running:
        yield running


def statuses(service: Service, key: str, requests: int = 8) -> set[int]:
    """The answers to a key on several connections, so that all API processes answer."""
    found = set()
    for _ in range(requests):
        with service.fresh() as client:
            found.add(client.get("/models", headers=bearer(key)).status_code)
    return found


def eventually(service: Service, key: str, status: int) -> None:
    give_up = time.monotonic() + SECONDS
    while statuses(service, key) != {status}:
        assert time.monotonic() < give_up


def test_every_process_knows_the_keys_and_reads_them_again(service: Service, keys: Path) -> None:
    assert (statuses(service, GOOD), statuses(service, "wrong")) == ({200}, {401})
    keys.write_text("\n".join([*LINES, line_of("new", "the-new-key", ["generate"])]))
    service.process.send_signal(signal.SIGHUP)
    eventually(service, "the-new-key", 200)
    keys.write_text("nonsense")
    service.process.send_signal(signal.SIGHUP)
    give_up = time.monotonic() + SECONDS
    while not any("API keys not changed" in line for line in service.log):
        assert time.monotonic() < give_up
        time.sleep(0.01)
    assert (statuses(service, GOOD), statuses(service, "the-new-key")) == ({200}, {200})
    os.kill(service.processes("api-")["api-0"], signal.SIGKILL)  # its successor reads no file
    eventually(service, "wrong", 401)
    eventually(service, "the-new-key", 200)
    keys.write_text("\n".join(LINES))
    answer = service.client.post(f"http://127.0.0.1:{service.admin_port}/reload", headers=bearer(ADMIN))
    assert answer.json()[0] == {"keys": 3, "outcome": "read"}
    eventually(service, "the-new-key", 401)


def test_the_admin_port_asks_for_a_key(service: Service) -> None:
    url = f"http://127.0.0.1:{service.admin_port}"
    assert service.client.get(f"{url}/models").status_code == 401
    assert service.client.post(f"{url}/reload", headers=bearer(GOOD)).status_code == 403
    assert service.client.get(f"{url}/models", headers=bearer(ADMIN)).status_code == 200


def test_all_processes_take_from_one_bucket(service: Service) -> None:
    def status() -> int:
        with service.fresh() as client:
            return client.post("/generate/ddpm", json={"steps": 50}, headers=bearer(SLOW)).status_code

    assert status() == 200
    assert {status() for _ in range(10)} == {429}


@pytest.mark.parametrize(
    "line",
    [
        b"GET http://127.0.0.1/models HTTP/1.1",
        b"GET http://x/health?/models HTTP/1.1",
        b"GET //models HTTP/1.1",
        b"GET /health/../models HTTP/1.1",
        b"GET /%6dodels HTTP/1.1",
        b"GET /models HTTP/1.0",
        b"GET /models#/health HTTP/1.1",
        b"GET models HTTP/1.1",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"HEAD /models HTTP/1.1",
    ],
)
def test_no_request_line_gets_past(service: Service, line: bytes) -> None:
    with service.connect() as connection:
        connection.sendall(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = read_to_end(connection)
    status = int(answer.split()[1])
    if b"/health?" in line:  # the path of this target is public
        assert status == 200
    else:
        assert status in (400, 401), answer
    assert b"capabilities" not in answer


def test_another_host_gets_nothing(service: Service) -> None:
    for host in ("evil.example", "localhost.evil.example"):
        answer = service.client.get("/health", headers={"Host": host} | bearer(GOOD))
        assert (answer.status_code, answer.json()["code"]) == (421, "wrong-host")
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_client_follows_so_many_jobs_in_a_process(service: Service) -> None:
    long = {"n": 64, "steps": 1000, "timeout_ms": 600_000}
    job = service.client.post("/generate/ddpm", json=long, headers={"Prefer": "respond-async"} | bearer(GOOD)).json()
    with ExitStack() as stack:
        streams = []
        for _ in range(5):  # two processes with two streams each
            client = stack.enter_context(service.fresh())
            found = client.stream("GET", f"/jobs/{job['id']}/events", headers=bearer(GOOD))
            streams.append(stack.enter_context(found).status_code)
        assert 429 in streams
        assert streams.count(200) >= 2
    assert service.client.delete(f"/jobs/{job['id']}", headers=bearer(GOOD)).status_code == 204


def test_it_listens_where_it_is_meant_to(service: Service) -> None:
    """Every listening socket of every process is on loopback, at one of the two ports."""
    inodes = set()
    for pid in (service.process.pid, *descendants(service.process.pid)):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            inodes.add(str(descriptor.readlink()))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and f"socket:[{rest[5]}]" in inodes:
                address, port = local.split(":")
                found.add((family, address, int(port, 16)))
    loopback = "0100007F"
    assert found == {(socket.AF_INET, loopback, port) for port in (service.port, service.admin_port)}


def test_no_key_is_in_the_log(service: Service) -> None:
    service.client.get("/models", headers=bearer(GOOD))
    service.client.get("/models", headers=bearer("a-wrong-key"))
    log = "".join(service.log)
    assert not any(key in log for key in (GOOD, ADMIN, SLOW, "a-wrong-key"))
    assert '"key": "good"' in log
