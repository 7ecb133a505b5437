"""Metrics of several processes; one test has real ones, the others several in this process."""

import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from service.history import History, steps
from service.metrics import Metrics
from tests.service.test_metrics import samples

SLOTS = ("api-0", "api-1", "engine-0", "supervisor")


@pytest.fixture
def several(tmp_path: Path) -> list[Metrics]:
    return [Metrics.shared(tmp_path, slot) for slot in SLOTS]


def serve(folder: Path, slot: str, requests: int) -> None:
    """What a process does that answers ``requests`` and is killed: nothing of it is flushed or closed."""
    metrics = Metrics.shared(folder, slot)
    vae = metrics.for_model("vae", ["internal"])
    for _ in range(requests):
        vae.images.inc()
        vae.request_seconds.observe(0.5)
    vae.queued_rows.set(requests)
    metrics.refresh()
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, slot: str, requests: int) -> None:
    """Run ``serve`` in another process until its end."""
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, slot, requests))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_processes_that_are_killed_and_replaced_lose_nothing(tmp_path: Path) -> None:
    own = Metrics.shared(tmp_path, "supervisor")
    run(tmp_path, "api-0", 3)
    run(tmp_path, "engine-0", 4)
    found = samples(own)
    assert found["genserve_images_total [('model', 'vae')]"] == 7
    assert found["genserve_request_seconds_bucket [('le', '0.756'), ('model', 'vae')]"] == 7
    assert found["genserve_request_seconds_sum [('model', 'vae')]"] == 3.5
    assert found["genserve_queued_rows [('model', 'vae')]"] == 7
    own.ended("api-0")
    assert samples(own)["genserve_queued_rows [('model', 'vae')]"] == 4
    run(tmp_path, "api-0", 2)
    found = samples(own)
    assert found["genserve_images_total [('model', 'vae')]"] == 9
    assert found["genserve_queued_rows [('model', 'vae')]"] == 6
    assert own.registry.get_sample_value("genserve_process_open_fds", {"process": "engine-0"})


def test_every_process_exposes_the_same(several: list[Metrics], monkeypatch: pytest.MonkeyPatch) -> None:
    for number, metrics in enumerate(several):
        metrics.for_unknown_models(["unknown-model"])
        metrics.for_model("vae", ["internal"]).request_seconds.observe(number)
    several[0].show_version("vae", "vae", "aaaaaaaa", "a" * 64)
    several[3].for_model("gan", [])
    for metrics in (*several, *several):  # the second time each knows what the others have added
        metrics.refresh()
    monkeypatch.setattr(Metrics, "refresh", lambda self: None)  # processor time goes on
    first, *others = (metrics.expose() for metrics in several)
    assert others == [first] * 3
    assert b"genserve_model_info{" in first
    assert b'genserve_request_seconds_count{model="vae"} 4.0' in first


def test_an_unloaded_model_is_forgotten_by_all(several: list[Metrics]) -> None:
    for metrics in several:
        metrics.for_model("vae", []).live_rows.set(2)
    several[1].show_version("vae", "vae", "aaaaaaaa", "a" * 64)
    several[2].forget("vae")
    for metrics in several:
        found = samples(metrics)
        assert found["genserve_images_total [('model', 'vae')]"] == 0
        gone = ("genserve_live_rows", "genserve_model_info", "genserve_model_ready")
        assert not [name for name in found if name.startswith(gone)]


def test_one_version_of_a_model_runs_whichever_process_tells(several: list[Metrics]) -> None:
    for metrics, digit in zip(several, "123", strict=False):
        metrics.refresh()
        metrics.show_version("vae", "vae", digit * 8, digit * 64)
    (info,) = (name for name in samples(several[0]) if name.startswith("genserve_model_info"))
    assert "'33333333'" in info


def test_the_service_has_the_threads_of_its_processes(several: list[Metrics]) -> None:
    for metrics, threads in zip(several, (0, 0, 2, 0), strict=True):
        metrics.engine_threads.set(threads)
    assert several[0].registry.get_sample_value("genserve_engine_threads") == 2
    for metrics in several:
        metrics.refresh()
    assert (several[0].registry.get_sample_value("genserve_threads") or 0) >= len(SLOTS)


def test_the_history_of_a_new_process_begins_with_what_was_counted(tmp_path: Path, several: list[Metrics]) -> None:
    several[0].for_model("vae", []).images.inc(100)
    replacing = Metrics.shared(tmp_path, "api-1")
    vae = replacing.for_model("vae", [])
    history = History(lambda: [("vae", vae)], replacing.refresh, lambda: 0.0)
    several[2].for_model("vae", []).images.inc(3)
    ((before, after),) = steps(history.since(60), "vae")
    assert before is not None
    assert after.pictures - before.pictures == 3
