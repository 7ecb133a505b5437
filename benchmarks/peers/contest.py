"""Who is measured, how, and the measuring of one server."""

import io
import os
import subprocess
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from http.client import HTTPException

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.clients import closed_loop, last_core
from benchmarks.load import Outcome
from benchmarks.peers.generator import Generator
from benchmarks.peers.goals import OURS, Goal
from benchmarks.peers.running import OUR_ENVIRONMENT, PEER_ENVIRONMENTS, Peer, ask, running_peer
from benchmarks.server import running_service

SEED = 2026

_BENTOML = ("-m", "bentoml", "serve", "--host", "127.0.0.1")

PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "litserve",
            ("-m", "benchmarks.peers.litserve_server"),
            "5 ms for a batch to fill; 1 worker, an HTTP process a core",
        ),
        Peer(
            "mosec",
            ("-m", "benchmarks.peers.mosec_server", "--address", "127.0.0.1", "--timeout", "10000", "--port"),
            "1 ms, the least, for a batch to fill; a worker a core",
        ),
        Peer(
            "bentoml",
            (*_BENTOML, "benchmarks.peers.bentoml_server:Single", "--port"),
            "no batching; a worker a core; no access log, no metrics",
        ),
        Peer(
            "bentoml-batching",
            (*_BENTOML, "benchmarks.peers.bentoml_server:Batching", "--port"),
            "adaptive batching in a second service; no access log, no metrics",
            PEER_ENVIRONMENTS / "bentoml",
        ),
        Peer("naive", ("-m", "benchmarks.peers.naive_server"), "FastAPI, def endpoint, no batching", OUR_ENVIRONMENT),
    )
}


@dataclass(frozen=True)
class Scenario:
    """How servers run: how the peers prepare the model, and whether server and client have a core each."""

    name: str
    preparation: str
    pinned: bool
    servers: tuple[str, ...]
    connections: tuple[int, ...] = (64, 1)

    @property
    def cores(self) -> list[int]:
        """Those of the server."""
        every = sorted(os.sched_getaffinity(0))
        return every[:1] if self.pinned else every


SHIPPED = Scenario("as shipped", "shipped", pinned=True, servers=(OURS, *PEERS), connections=(64, 32, 1))
ALIKE = Scenario("alike", "alike", pinned=True, servers=(OURS, "litserve", "mosec", "bentoml", "naive"))
FREE = Scenario("both cores", "shipped", pinned=False, servers=(OURS, "litserve", "mosec", "bentoml", "naive"))
SCENARIOS = (SHIPPED, ALIKE, FREE)

GOALS = (
    Goal("mosec", "answers_per_s", SHIPPED.name, 64, 1.15),
    Goal("mosec", "answers_per_s", ALIKE.name, 64, 1.0),
    Goal("litserve", "answers_per_s", SHIPPED.name, 64, 3.5),
    Goal("naive", "answers_per_s", FREE.name, 64, 5.0),
    Goal("mosec", "answers_per_s", FREE.name, 64, 1.0),
    Goal("mosec", "p50_ms", SHIPPED.name, 1, 4.0),
    Goal("naive", "p50_ms", SHIPPED.name, 1, 1.0),
    *(Goal(peer, "p99_ms", SHIPPED.name, 64, 1.0) for peer in PEERS),
)

#: What a server or a busy machine may do wrong without ending the whole: that server has no figures for that round.
FAILURES = (OSError, HTTPException, ValueError, RuntimeError, subprocess.SubprocessError)


def measure(scenario: Scenario, server: str, seconds: float) -> dict[int, Outcome]:
    """Start a server, and ask it by each number of connections; raises one of ``FAILURES`` unless all goes well."""
    path = "/generate/quick-gan" if server == OURS else "/generate"
    outcomes = {}
    with _running(scenario, server) as port:
        for connections in scenario.connections:
            _check(ask(port, path, SEED))
            core = last_core() if scenario.pinned else None
            outcome = closed_loop(port, path, {"seed": SEED}, connections, seconds, core)
            if outcome.failures:
                raise ValueError(f"{outcome.failures} answers to {connections} connections were not 200")
            outcomes[connections] = outcome
    return outcomes


def version(peer: Peer) -> str:
    """The package that it is made with, as installed."""
    package = "fastapi" if peer.home == OUR_ENVIRONMENT else peer.home.name
    program = f"from importlib.metadata import version; print({package!r}, version({package!r}))"
    return subprocess.check_output([peer.home / "bin/python", "-c", program], text=True).strip()


def _running(scenario: Scenario, server: str) -> AbstractContextManager[int]:
    cores = ",".join(map(str, scenario.cores))
    if server == OURS:  # left to itself it has an engine thread for every core that is its
        return running_service(cores)
    return running_peer(PEERS[server], cores, len(scenario.cores), scenario.preparation)


def _check(png: bytes) -> None:
    """Raise ValueError unless it is the picture of ``SEED``: another batch or preparation may round by a grey level."""
    picture = _pixels(png)
    if picture.shape != _expected().shape or np.abs(picture - _expected()).max() > 1:
        raise ValueError(f"an answer was not the picture of seed {SEED}")


@cache
def _expected() -> NDArray[np.int64]:
    return _pixels(Generator().pngs([SEED])[0])


def _pixels(png: bytes) -> NDArray[np.int64]:
    return np.asarray(Image.open(io.BytesIO(png), formats=["PNG"]), dtype=np.int64)
