"""The service against clients and readers that do not keep up, and its end while requests are under way."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from benchmarks import drain
from benchmarks.server import free_port
from tests.e2e.process import ROOT, SECONDS, post, read_to_end, serving

pytestmark = pytest.mark.slow

MALFORMED = 1000


@pytest.fixture
def unread(tiny_weights: Path) -> Iterator[int]:
    """The port of a service whose standard error is a pipe that is full."""
    port = free_port()
    own = {"GENSERVE_WEIGHTS_DIR": str(tiny_weights), "GENSERVE_PORT": str(port), "GENSERVE_LOG_LEVEL": "debug"}
    ours, theirs = os.pipe()
    os.set_blocking(theirs, False)
    with suppress(BlockingIOError):
        while True:
            os.write(theirs, bytes(4096))
    os.set_blocking(theirs, True)
    with subprocess.Popen([sys.executable, "-m", "service"], cwd=ROOT, env=os.environ | own, stderr=theirs) as process:
        try:
            yield port
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


def test_a_log_that_nobody_reads_blocks_nothing(unread: int) -> None:
    url = f"http://127.0.0.1:{unread}"
    give_up = time.monotonic() + SECONDS
    while True:
        with suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health/live").status_code == 200:
                break
        assert time.monotonic() < give_up
        time.sleep(0.05)
    for _ in range(MALFORMED):
        with socket.create_connection(("127.0.0.1", unread), timeout=SECONDS) as connection:
            connection.sendall(b"no HTTP\r\n\r\n")
            assert b"application/problem+json" in read_to_end(connection)
    assert httpx2.post(f"{url}/generate/vae", timeout=SECONDS).status_code == 200


@pytest.mark.parametrize("servers", [1, 2])
def test_no_accepted_request_is_lost_at_a_stop(servers: int) -> None:
    with ThreadPoolExecutor(1) as thread:  # the tests of the page leave an event loop that runs in this one
        stop = thread.submit(drain.stop_once, servers).result()
    assert stop.code == 0
    assert stop.requests["lost"] == 0
    assert stop.requests["answered"]
    assert stop.stream_ended
    assert not stop.traceback


@pytest.mark.parametrize("engine", ["inline", "processes"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_service_at_once(tiny_weights: Path, engine: str, number: signal.Signals) -> None:
    """The drain may take days."""
    with (
        serving(
            tiny_weights, engine=engine, drain_s=1e6, drain_delay_s=1e6, max_queue_ms=1e9, spare_engine="false"
        ) as service,
        service.connect() as connection,
    ):
        connection.sendall(post("/generate/ddpm", b'{"n": 64, "steps": 1000}'))
        service.process.send_signal(signal.SIGTERM)
        while service.client.get("/health/ready").status_code == 200:
            assert service.process.poll() is None
        assert service.stop(number) == 0
