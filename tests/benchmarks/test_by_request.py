"""The contender that batches by request, which the service is compared with."""

from pathlib import Path

import pytest
import torch

from benchmarks import by_request
from benchmarks.by_request import LaneByRequest
from service.contract.manifest import Manifest
from service.engine import host
from service.engine.engine import Engine
from service.engine.lane import Lane
from service.engine.model import Model
from service.metrics import Metrics
from service.models.registry import load_registry
from service.models.torchscript import load_model
from service.settings import Settings
from tests.service.artefacts import write_diffusion, write_one_shot
from tests.service.engine.conftest import local_engine, new_lane, put, request_rows, tick

CPU = torch.device("cpu")
NO_CLASS = 3


@pytest.fixture
def diffusion(tmp_path: Path) -> Model:
    write_diffusion(tmp_path, "ddpm")
    return load_model(tmp_path / "ddpm", CPU)


def lane_of(model: Model, rows: int = 8) -> Lane:
    return new_lane(model, rows=rows, bucket=4, lane=LaneByRequest)


async def test_a_later_request_waits_for_the_whole_batch(diffusion: Model) -> None:
    lane = lane_of(diffusion)
    first = put(lane, request_rows(2, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 6)))
    short = put(lane, request_rows(1, 5, NO_CLASS, 1.0, diffusion.plan("ddim", 2)))
    assert tick(lane) == 3
    later = put(lane, request_rows(1, 9, NO_CLASS, 1.0, diffusion.plan("ddim", 1)))
    assert [tick(lane) for _ in range(5)] == [3, 2, 2, 2, 2]  # the short one's slot stays empty
    assert (first.done, short.done, later.done) == (True, True, False)
    assert later.started_at is None
    assert lane.has_work
    assert tick(lane) == 1
    assert later.done
    assert lane.is_empty


async def test_a_batch_has_at_most_one_bucket_of_rows(diffusion: Model) -> None:
    lane = lane_of(diffusion, rows=64)
    put(lane, request_rows(6, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 1)))
    running = lane.claim(None, threads=1)
    assert len(running) == 4
    assert not lane.has_work  # two rows wait until the four have ended
    lane.complete_tick(lane.compute(running), spent_ms=1.0)
    assert [tick(lane), tick(lane)] == [2, 0]
    assert lane.is_empty


async def test_a_cancelled_batch_makes_way_for_the_next(diffusion: Model) -> None:
    lane = lane_of(diffusion)
    cancelled = put(lane, request_rows(4, 0, NO_CLASS, 1.0, diffusion.plan("ddim", 1000)))
    tick(lane)
    waiting = put(lane, request_rows(2, 9, NO_CLASS, 1.0, diffusion.plan("ddim", 1)))
    cancelled.cancel()
    lane.sweep()
    assert tick(lane) == 2
    assert waiting.done


def test_the_program_serves_with_such_lanes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest: Manifest = write_one_shot(tmp_path, "vae")
    engines: list[Engine] = []

    def serve() -> int:
        settings = Settings(weights_dir=tmp_path)
        assert settings.engine == "inline"  # else the lanes of other processes would stay as they are
        engines.append(local_engine(load_registry(settings, CPU), settings, Metrics())[0])
        return 0

    monkeypatch.setenv("GENSERVE_ENGINE", "processes")  # this and the next are restored after the test
    monkeypatch.setattr(host, "Lane", Lane)
    monkeypatch.setattr("service.__main__.main", serve)
    assert by_request.main() == 0
    assert isinstance(engines[0].deployments[manifest.name].lane, LaneByRequest)
