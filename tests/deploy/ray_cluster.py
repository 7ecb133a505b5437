"""The service on Ray Serve, on three nodes that are processes of this machine: a head, and one for each replica.

`python -m tests.deploy.ray_cluster PORT` is the cluster, which ends with its standard input. It is a process of its own
because Ray raises warnings, which are errors in tests.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import pytest

from tests.e2e.process import ROOT, SAME_BYTES, descendants

SECONDS = 240.0
SETTINGS: dict[str, object] = {**SAME_BYTES, "drain_s": 30.0, "max_lag_ms": 10_000}
#: A lost node is noticed after three seconds.
RAY = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "deploy.ray.proxy:middlewares",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "disabled",
    "OMP_NUM_THREADS": "1",
}


class RayCluster:
    """A running cluster, whose proxy answers at ``url``."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self._process, self.url = process, f"http://127.0.0.1:{port}"

    def wait_for_replicas(self, number: int = 2) -> None:
        """Return when so many replicas have loaded their models, and one answers."""
        give_up = time.monotonic() + SECONDS
        while not (len(self.replicas()) == number and self._says("replicas") == str(number) and self._answers()):
            assert time.monotonic() < give_up, f"{self.replicas()} are replicas"
            time.sleep(0.2)

    def replicas(self) -> list[int]:
        """The processes of replicas."""
        return self._named("ray::ServeReplica")

    def kill_replica(self) -> None:
        """End one replica with SIGKILL."""
        os.kill(self.replicas()[0], signal.SIGKILL)

    def kill_controller(self) -> None:
        """End Ray Serve's controller with SIGKILL."""
        (controller,) = self._named("ray::ServeController")
        os.kill(controller, signal.SIGKILL)

    def lose_node(self) -> None:
        """End all processes of one node at once."""
        assert self._says("lose") == "lost"

    def add_node(self) -> None:
        """Add a node."""
        assert self._says("add") == "added"

    def _says(self, command: str) -> str:
        """What the cluster answers to ``command``; Ray's own output comes before it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(command, file=self._process.stdin, flush=True)
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError("the cluster has ended")

    def _named(self, prefix: str) -> list[int]:
        found = []
        for pid in descendants(self._process.pid):
            with suppress(FileNotFoundError, ProcessLookupError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(prefix.encode()):
                    found.append(pid)
        return found

    def _answers(self) -> bool:
        with suppress(httpx2.TransportError):
            return httpx2.get(f"{self.url}/health/ready", timeout=SECONDS).status_code == 200
        return False


@contextmanager
def ray_cluster(weights: Path, port: int, **settings: object) -> Iterator[RayCluster]:
    """A cluster of its own with two replicas; the test is skipped without Ray."""
    pytest.importorskip("ray.serve")
    environment = {name: text for name, text in os.environ.items() if not name.startswith(("GENSERVE_", "RAY_"))}
    environment |= RAY | {"PYTHONPATH": str(ROOT), "GENSERVE_WEIGHTS_DIR": str(weights), "GENSERVE_DEVICE": "cpu"}
    environment |= {f"GENSERVE_{name.upper()}": str(value) for name, value in {**SETTINGS, **settings}.items()}
    command = [sys.executable, "-m", "tests.deploy.ray_cluster", str(port)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        cluster = RayCluster(process, port)
        try:
            cluster.wait_for_replicas()
            yield cluster
        finally:
            process.communicate(timeout=SECONDS)


def main(port: int) -> None:
    """Run the cluster; a line of standard input is a command."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from deploy.ray.app import Genserve

    node = {"num_cpus": 1}
    cluster = Cluster(initialize_head=True, connect=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(**node) for _ in range(2)]
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    replicas = Genserve.options(num_replicas=2, autoscaling_config=None)  # type: ignore[attr-defined]  # as in the app
    serve.run(replicas.bind(), name="genserve")
    for line in sys.stdin:
        match line.strip():
            case "lose":
                cluster.remove_node(nodes.pop(), allow_graceful=False)
                answer = "lost"
            case "add":
                nodes.append(cluster.add_node(**node))
                answer = "added"
            case _:
                deployment = serve.status().applications["genserve"].deployments["Genserve"]
                answer = str(deployment.replica_states.get("RUNNING", 0))
        print(f"> {answer}", flush=True)
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
