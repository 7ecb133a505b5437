import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from tests.e2e.process import ROOT, Service, post, read_to_end, reset, serving

NPY = {"Accept": "application/x-npy"}
#: Seconds of work for one engine thread: the tests that send it do not wait for it.
LONG = json.dumps({"n": 64, "steps": 1000}).encode()
#: Enough work to be under way when a signal comes.
BUSY = {"n": 16, "steps": 1000}


def pixels(response: httpx2.Response) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(n, height, width, channel) of an answer in the form of NPY."""
    assert response.status_code == 200, response.text
    return np.asarray(np.load(io.BytesIO(response.content)), np.uint8)


def size(response: httpx2.Response) -> tuple[int, int]:
    """(width, height) of a picture."""
    assert response.status_code == 200, response.text
    with Image.open(io.BytesIO(response.content)) as image:
        return image.size


def test_pictures_and_readiness_over_http(service: Service) -> None:
    client = service.client
    picture = client.post("/generate/ddpm")
    assert picture.headers["content-type"] == "image/png"
    assert size(picture) == (8, 8)
    again = client.get("/generate/ddpm", params={"seed": picture.headers["x-seed"], "scale": 2})
    assert size(again) == (16, 16)
    array = client.post(
        "/generate/vae",
        content=b'{"n": 3, "class_label": "bag"}',
        headers={**NPY, "Content-Type": "application/x-www-form-urlencoded"},
    )
    assert pixels(array).shape == (3, 8, 8, 1)
    strip = client.post("/interpolate", json={"model": "ddpm", "from": {"seed": 1}, "to": {"seed": 2}})
    assert size(strip) == (102, 12)
    assert client.get("/health/ready").json()["status"] == "ready"
    assert client.get("/nothing").status_code == 404


def test_concurrent_requests_share_calls(service: Service) -> None:
    bodies = [
        {"seed": seed, "steps": 400 + seed, "solver": ("ddim", "ddpm")[seed % 2], "class_label": seed % 3}
        for seed in range(32)
    ]
    calls, rows = service.sample("tick_rows_count"), service.sample("tick_rows_sum")
    with ThreadPoolExecutor(32) as senders:
        together = list(senders.map(lambda body: service.client.post("/generate/ddpm", json=body, headers=NPY), bodies))
    calls, rows = service.sample("tick_rows_count") - calls, service.sample("tick_rows_sum") - rows
    assert rows == sum(400 + seed for seed in range(32))
    assert rows / calls > 1.5
    for body, answer in list(zip(bodies, together, strict=True))[::5]:
        alone = pixels(service.client.post("/generate/ddpm", json=body, headers=NPY))
        assert np.abs(pixels(answer).astype(int) - alone).max() <= 1


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["FIN", "RST"])
@pytest.mark.parametrize(
    ("sent", "computes"),
    [
        pytest.param(post("/generate/ddpm", LONG), True, id="generate"),
        pytest.param(post("/generate/ddpm", LONG, "Connection: close"), True, id="close"),
        pytest.param(post("/generate/ddpm", LONG) * 2, True, id="pipelined"),
        pytest.param(post("/interpolate", b'{"model": "ddpm", "frames": 64, "steps": 1000}'), True, id="interpolate"),
        pytest.param(b"GET /generate/ddpm?n=64&steps=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n", True, id="get"),
        pytest.param(post("/generate/ddpm", LONG)[:-5], False, id="half a body"),
        pytest.param(post("/generate/ddpm", LONG)[:40], False, id="half a header"),
        pytest.param(b"", False, id="nothing"),
    ],
)
def test_clients_that_leave_cost_nothing_more(
    service: Service, sent: bytes, computes: bool, leave: Callable[[socket.socket], None]
) -> None:
    made = service.sample("images_total")
    connections = [service.connect() for _ in range(4)]
    for connection in connections:
        connection.sendall(sent)
    if computes:
        service.wait_for("live_rows", at_least=1)
    for connection in connections:
        leave(connection)
    service.wait_until_idle()
    assert service.sample("images_total") == made
    assert service.client.post("/generate/ddpm").status_code == 200


def test_one_client_leaving_does_not_disturb_another(service: Service) -> None:
    body = {"n": 4, "steps": 300, "seed": 5}
    with ThreadPoolExecutor(1) as sender:
        alone = pixels(service.client.post("/generate/ddpm", json=body, headers=NPY))
        staying = sender.submit(service.client.post, "/generate/ddpm", json=body, headers=NPY)
        for _ in range(10):
            with service.connect() as connection:
                connection.sendall(post("/generate/ddpm", LONG))
        assert np.abs(pixels(staying.result()).astype(int) - alone).max() <= 1
    service.wait_until_idle()


def test_a_connection_serves_one_request_after_another(service: Service) -> None:
    with service.connect() as connection:
        requests = [post("/generate/vae", json.dumps({"seed": seed}).encode()) for seed in range(20)]
        # All at once, the answers come in order; a bad one among them does not end the connection.
        requests[7] = post("/generate/vae", b'{"seed": -1}')
        requests[-1] = post("/generate/vae", b'{"seed": 19}', "Connection: close")
        connection.sendall(b"".join(requests))
        answers = read_to_end(connection).split(b"HTTP/1.1 ")[1:]
    assert [answer[:3] for answer in answers] == [b"422" if seed == 7 else b"200" for seed in range(20)]
    seeds = [int(answer.split(b"x-seed: ")[1].split(b"\r\n")[0]) for answer in answers if answer[:3] == b"200"]
    assert seeds == [seed for seed in range(20) if seed != 7]


def test_a_body_may_come_in_pieces_and_wait_for_leave(service: Service) -> None:
    with service.connect() as connection:
        head = post("/generate/vae", b"", "Expect: 100-continue", "Connection: close").replace(
            b"Content-Length: 0", b"Transfer-Encoding: chunked"
        )
        connection.sendall(head)
        assert connection.recv(100).startswith(b"HTTP/1.1 100 Continue")
        for piece in (b'{"se', b'ed": ', b"7}"):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        connection.sendall(b"0\r\n\r\n")
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"x-seed: 7\r\n" in answer


@pytest.mark.parametrize("length", [b"Content-Length: 1000000000", b"Transfer-Encoding: chunked"])
def test_an_oversized_body_is_refused_while_it_is_sent(service: Service, length: bytes) -> None:
    with service.connect() as connection:
        head = post("/v2/repository/index", b"").replace(b"Content-Length: 0", length)
        connection.sendall(head)
        for _ in range(7):
            chunk = b" " * 10_000
            connection.sendall(b"2710\r\n%s\r\n" % chunk if b"chunked" in length else chunk)
        answer = read_to_end(connection, b"65536 bytes")
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"65536 bytes" in answer


def test_an_answer_to_head_has_no_body(service: Service) -> None:
    for path, status in (("/generate/vae", 200), ("/generate/nope", 404), ("/interpolate", 405), ("/nothing", 404)):
        response = service.client.head(path)
        assert response.status_code == status
        assert int(response.headers["content-length"]) > 0
        assert response.content == b""
    assert service.client.get("/health/live").status_code == 200


def test_it_listens_on_loopback_only(service: Service) -> None:
    listening = []
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else ():
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if state == "0A" and int(port, 16) == service.port:
                listening.append(address)
    assert listening == ["0100007F"]


def test_the_log_is_json_and_says_nothing_of_what_was_asked(service: Service) -> None:
    service.client.post("/generate/vae", json={"seed": 4_000_000_001})
    service.client.get("/generate/vae", params={"seed": 4_000_000_001})
    lines = [json.loads(line) for line in service.log]
    assert all(line.keys() >= {"time", "level", "logger", "message"} for line in lines)
    assert {line.get("model") for line in lines if line["message"] == "model ready"} == {"vae", "ddpm"}
    assert "4000000001" not in "".join(service.log)


@pytest.mark.parametrize("told", [True, False])
def test_a_request_has_its_line_in_the_log(tiny_weights: Path, told: bool) -> None:
    with serving(tiny_weights, engine_threads=1, access_log=told) as service:
        service.client.post("/generate/ddpm", json={"n": 3, "steps": 4})
        service.client.post("/generate/vae", json={"n": 0})
        service.client.get("/metrics")
        service.client.get("/nothing")
        assert service.stop(signal.SIGTERM) == 0
    lines = [json.loads(line) for line in service.log if "service.access" in line]
    if not told:
        assert lines == []
        return
    assert [(line["path"], line["status"], line["outcome"]) for line in lines] == [
        ("/generate/ddpm", 200, "ok"),
        ("/generate/vae", 422, "invalid-field"),
        ("/nothing", 404, "not-found"),
    ]
    made = lines[0]
    assert (made["model"], made["rows"]) == ("ddpm", 3)
    stages = made["queue_ms"] + made["compute_ms"] + made["encode_ms"]
    assert 0 < stages <= made["total_ms"]


def test_a_trusted_proxy_says_who_asks_and_how(tiny_weights: Path) -> None:
    told = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https", "Prefer": "respond-async"}
    with serving(tiny_weights, engine_threads=1, forwarded_allow_ips="127.0.0.1") as service:
        client = service.client
        job = client.post("/generate/ddpm", headers=told).json()["id"]
        assert client.get("/jobs").json()["jobs"] == []
        assert [each["id"] for each in client.get("/jobs", headers=told).json()["jobs"]] == [job]
        made = client.post("/generate/ddpm", headers={**told, "Prefer": "wait=60", "Accept": "application/json"}).json()
        assert f"https://127.0.0.1:{service.port}/generate/ddpm" in made["reproduce"]


def test_nobody_else_is_believed(service: Service) -> None:
    told = {"X-Forwarded-For": "198.51.100.7", "X-Forwarded-Proto": "https"}
    job = service.client.post("/generate/ddpm", headers={**told, "Prefer": "respond-async"}).json()["id"]
    assert job in [each["id"] for each in service.client.get("/jobs").json()["jobs"]]
    made = service.client.post("/generate/ddpm", headers={**told, "Accept": "application/json"}).json()
    assert f"http://127.0.0.1:{service.port}/generate/ddpm" in made["reproduce"]


def test_idle_connections_close_after_the_time_that_is_set(tiny_weights: Path) -> None:
    request = b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serving(tiny_weights, engine_threads=1, keep_alive_s=0.2, admin_port=0) as service:
        for port, path in ((service.port, b"/health/live"), (service.admin_port, b"/models")):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(request % path)
                assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_client_that_half_closes_gets_its_picture(service: Service, version: str) -> None:
    sent = post("/generate/ddpm", b'{"n": 64, "steps": 200}').replace(b"HTTP/1.1", f"HTTP/{version}".encode())
    with service.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        answer = read_to_end(connection)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"IEND\xaeB`\x82")


def test_events_for_http_1_0_end_with_the_connection(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /generate/ddpm?stream=true HTTP/1.0\r\nHost: localhost\r\n\r\n")
        head, _, events = read_to_end(connection).partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert events.startswith(b"id: 1\nevent: queued\n")
    assert events.endswith(b"\n\n")


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_stopping_while_busy_finishes_what_was_accepted(tiny_weights: Path, stop: signal.Signals) -> None:
    with serving(tiny_weights, engine_threads=1) as service:
        with ThreadPoolExecutor(4) as senders:
            requests = [senders.submit(service.client.post, "/generate/ddpm", json=BUSY) for _ in range(4)]
            service.wait_for("queued_rows", "live_rows", "images_total", at_least=64)
            code = service.stop(stop)
            assert [request.result().status_code for request in requests] == [200] * 4
        with pytest.raises(httpx2.ConnectError):
            service.client.get("/health/live")
        assert service.errors_logged() == []
        assert code == 0


def test_sigint_stops_a_service_that_was_started_with_it_ignored(tiny_weights: Path) -> None:
    """As shells start background jobs."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with serving(tiny_weights, engine_threads=1) as service:
            assert service.stop(signal.SIGINT) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("blocks", [True, False])
def test_a_log_that_nobody_reads_holds_nothing_up(tiny_weights: Path, blocks: bool) -> None:
    """Standard error is a pipe, which its reader leaves full, and which some supervisors do not let block."""
    reads, writes = os.pipe()
    os.set_blocking(writes, blocks)
    environment = os.environ | {
        "GENSERVE_WEIGHTS_DIR": str(tiny_weights),
        "GENSERVE_PORT": "0",
        "GENSERVE_DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "service"]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=writes) as process:
        os.close(writes)
        try:
            log = b""
            while not (found := re.search(rb"running on http://127.0.0.1:(\d+)", log)):
                log += os.read(reads, 65_536)
            with httpx2.Client(base_url=f"http://127.0.0.1:{int(found[1])}", timeout=60) as client:
                for _ in range(400):  # more than fits into a pipe
                    assert client.get("/nothing").status_code == 404
                assert client.post("/generate/vae").status_code == 200
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()
            os.close(reads)


@pytest.mark.slow
def test_stopping_gives_up_what_takes_too_long(tiny_weights: Path) -> None:
    # A row a call, or the tiny network would be done in time.
    with (
        serving(tiny_weights, engine_threads=1, max_bucket=1, max_request_ms=1e9, drain_s=0.1) as service,
        service.connect() as connection,
    ):
        connection.sendall(post("/generate/ddpm", LONG))
        service.wait_for("live_rows", at_least=1)
        code = service.stop(signal.SIGTERM)
        assert not read_to_end(connection).startswith(b"HTTP/1.1 200")
        assert code == 0
