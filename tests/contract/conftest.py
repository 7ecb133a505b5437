import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import httpx2
import pytest

from benchmarks.server import free_port
from tests.deploy.ray_cluster import ray_cluster
from tests.e2e.process import ROOT, SAME_BYTES, SECONDS, Service, serving
from tests.redis_server import redis_server
from tests.service.api.documented import checker
from tests.service.artefacts import write_diffusion, write_one_shot

KINDS = ("one process", "several API processes", "two replicas", "Ray Serve")
RAY = pytest.param("Ray Serve", marks=[pytest.mark.ray, pytest.mark.timeout(900)])
SETTINGS: dict[str, object] = {**SAME_BYTES, "drain_s": 60.0}


@dataclass
class Target:
    """A running service. ``replicas`` are the processes behind it, if they are ours; ``start`` makes one more."""

    url: str
    replicas: list[Service] = field(default_factory=list)
    start: Callable[[], Service] | None = None

    def client(self) -> httpx2.Client:
        """A client with a connection of its own, which any process may get; what it receives must be documented."""
        return httpx2.Client(base_url=self.url, timeout=SECONDS, event_hooks={"response": [self.check]})

    @cached_property
    def check(self) -> Callable[[httpx2.Response], None]:
        """Raises where a response is not documented."""
        return checker(httpx2.get(f"{self.url}/openapi.json", timeout=SECONDS).json())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--base-url", help="the service to test; by default some are started")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames:
        url = metafunc.config.getoption("--base-url", None) or os.environ.get("GENSERVE_CONTRACT_URL")
        metafunc.parametrize("target", [url] if url else [*KINDS[:-1], RAY], indirect=True, scope="module")


@pytest.fixture(scope="module")
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A service of each kind, or the one of the command line."""
    if request.param not in KINDS:
        yield Target(request.param)
        return
    weights = tmp_path_factory.mktemp("contract")
    write_one_shot(weights)
    write_diffusion(weights)
    if request.param == "two replicas":
        with replicas(weights) as running:
            yield running
        return
    if request.param == "Ray Serve":
        with redis_server() as store, ray_cluster(weights, free_port(), store=store.url()) as cluster:
            yield Target(cluster.url)
        return
    more: dict[str, object] = {"engine": "inline"} if request.param == "one process" else {"api_servers": 2}
    with serving(weights, **SETTINGS, **more) as service:
        yield Target(str(service.client.base_url), [service])


@contextmanager
def replicas(weights: Path) -> Iterator[Target]:
    """Two services that share a Redis server, behind HAProxy with the shipped configuration."""
    haproxy = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if haproxy is None:
        pytest.skip("no haproxy command")
    ports = free_port(), free_port(), free_port()
    names = ("GENSERVE_BIND", "GENSERVE_REPLICA_1", "GENSERVE_REPLICA_2")
    environment = os.environ | {name: f"127.0.0.1:{port}" for name, port in zip(names, ports, strict=True)}
    with ExitStack() as stack:
        shared = {"store": stack.enter_context(redis_server()).url(), "forwarded_allow_ips": "127.0.0.1"}

        def start(port: int) -> Service:
            return stack.enter_context(serving(weights, **SETTINGS, **shared, engine="inline", port=port))

        running = [start(port) for port in ports[1:]]
        balancer = subprocess.Popen([haproxy, "-db", "-f", ROOT / "deploy/haproxy/haproxy.cfg"], env=environment)
        try:
            target = Target(f"http://127.0.0.1:{ports[0]}", running, lambda: start(ports[1]))
            wait_until_ready(target.url)
            yield target
        finally:
            balancer.terminate()
            balancer.wait(SECONDS)


def wait_until_ready(url: str) -> None:
    """Return when the balancer answers for a replica."""
    give_up = time.monotonic() + SECONDS
    while True:
        try:
            if httpx2.get(f"{url}/health/ready").status_code == 200:
                return
        except httpx2.TransportError:
            pass
        assert time.monotonic() < give_up
        time.sleep(0.05)


def stop(service: Service) -> None:
    """Send SIGTERM; it finishes what it accepted."""
    service.process.send_signal(signal.SIGTERM)
