"""Replicas, nodes and the controller of Ray Serve die under load: no wrong picture, no 500."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
import yaml

from benchmarks.server import free_port
from tests.deploy.ray_cluster import SECONDS, RayCluster, ray_cluster
from tests.e2e.process import ROOT
from tests.redis_server import redis_server
from tests.service.artefacts import write_diffusion

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(900)]

SEEDS = range(8)
CLIENTS = 4
#: Answers after an end that show that the service goes on.
AFTER = 200


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    weights = tmp_path_factory.mktemp("weights")
    write_diffusion(weights)
    with redis_server() as store, ray_cluster(weights, free_port(), store=store.url()) as running:
        yield running


class Load:
    """Clients that ask for pictures of known seeds one after another, and compare them."""

    def __init__(self, url: str) -> None:
        self._client = httpx2.Client(base_url=url, timeout=SECONDS)
        self._model = self._client.get("/models").json()[0]["name"]
        self._expected = {seed: self._ask(seed).content for seed in SEEDS}
        self._done = threading.Event()
        self.statuses: list[tuple[float, int]] = []
        self.wrong = 0
        self.longest_s = 0.0

    def close(self) -> None:
        self._client.close()

    def _ask(self, seed: int) -> httpx2.Response:
        return self._client.post(f"/generate/{self._model}", json={"seed": seed, "steps": 50})

    def _client_of(self, number: int) -> None:
        while not self._done.is_set():
            seed, began = SEEDS[(number + len(self.statuses)) % len(SEEDS)], time.monotonic()
            answer = self._ask(seed)
            now = time.monotonic()
            self.longest_s = max(self.longest_s, now - began)
            self.wrong += answer.status_code == 200 and answer.content != self._expected[seed]
            self.statuses.append((now, answer.status_code))
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
                assert answer.json()["status"] == 503

    def during(self, act: Callable[[], None]) -> float:
        """``act`` under load, and some answers later; the longest pause between pictures since then, in seconds."""
        with ThreadPoolExecutor(CLIENTS) as threads:
            asking = [threads.submit(self._client_of, number) for number in range(CLIENTS)]
            try:
                self._wait_for(AFTER, asking)
                at = time.monotonic()
                act()
                self._wait_for(len(self.statuses) + AFTER, asking)
            finally:
                self._done.set()
            for each in asking:
                each.result()
        times = [at, *sorted(moment for moment, status in self.statuses if status == 200 and moment > at)]
        return max(later - earlier for earlier, later in pairwise(times))

    def _wait_for(self, answers: int, asking: list[Future[None]]) -> None:
        give_up = time.monotonic() + SECONDS
        while len(self.statuses) < answers:
            assert time.monotonic() < give_up
            assert not any(each.done() for each in asking)
            time.sleep(0.01)


@pytest.mark.parametrize("what", ["kill_replica", "lose_node", "kill_controller"])
def test_what_dies_under_load_costs_no_picture(cluster: RayCluster, what: str) -> None:
    whole_s = 0.0

    def act() -> None:
        nonlocal whole_s
        began = time.monotonic()
        getattr(cluster, what)()
        if what == "lose_node":
            cluster.add_node()
        cluster.wait_for_replicas()
        whole_s = time.monotonic() - began

    with closing(Load(cluster.url)) as load:
        pause_s = load.during(act)
    statuses = Counter(status for _, status in load.statuses)
    print(f"\n{what}: {statuses}; the longest pause between pictures {pause_s:.2f} s,", end=" ")
    print(f"the longest request {load.longest_s:.2f} s; two replicas again after {whole_s:.1f} s")
    assert load.wrong == 0
    assert set(statuses) <= {200, 503}
    assert statuses[200] >= AFTER


def test_the_shipped_configuration_is_that_of_the_application(tmp_path: Path) -> None:
    pytest.importorskip("ray.serve")
    built = tmp_path / "built.yaml"
    command = ["-m", "ray.serve.scripts", "build", "deploy.ray.app:app", "--output-path", str(built)]
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, timeout=SECONDS)
    (ours,) = yaml.safe_load((ROOT / "deploy/ray/serve.yaml").read_text())["applications"]
    (theirs,) = yaml.safe_load(built.read_text())["applications"]
    assert ours["deployments"] == theirs["deployments"]
    assert ours["import_path"] == theirs["import_path"]
