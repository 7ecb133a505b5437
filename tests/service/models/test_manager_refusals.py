"""What a change of a model meets that cannot be served: it is refused, and what served before still does."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from service.background import Background
from service.change_errors import ChangeError, ModelUnusable, WeightsUnreadable
from service.contract.manifest import MANIFEST_FILE, read_manifest
from service.contract.signature import Trust
from service.models import manager as manager_module
from service.settings import Settings
from tests.service.artefacts import write_autoencoder
from tests.service.engine.conftest import set_golden
from tests.service.engine.running import Nan, export, running


def damage(weights: Path) -> None:
    path = weights / "vae" / read_manifest(weights / "vae").artifact.file
    path.write_bytes(path.read_bytes()[:-1] + b"?")


def drop_manifest(weights: Path) -> None:
    (weights / "vae" / MANIFEST_FILE).write_text("{}")


def false_golden(weights: Path) -> None:
    set_golden(weights / "vae", change=64)


@pytest.mark.parametrize(
    ("decode", "then", "reason"),
    [
        (None, damage, "SHA-256"),
        (None, drop_manifest, MANIFEST_FILE),
        (None, false_golden, "golden"),
        (Nan(), lambda weights: None, "not finite"),
    ],
)
async def test_a_version_that_fails_a_check_leaves_the_old_one_serving(
    weights: Path, settings: Settings, decode: nn.Module | None, then: object, reason: str
) -> None:
    assert callable(then)

    async with running(settings) as service:
        first, before = service.version(), await service.picture()
        export(weights, decode=decode)
        then(weights)
        with pytest.raises(ModelUnusable, match=reason):
            await service.manager.reload("vae")
        assert (service.version(), await service.picture()) == (first, before)
        assert service.manager.ready
        assert service.sample("model_changes_total", model="vae", outcome="failed") == 1
        standing = next(each for each in await service.manager.statuses() if each.model == "vae")
        assert (standing.state, standing.version) == ("serving", first)
        assert standing.problem
        assert reason in standing.problem
        # The next good version clears it.
        good = export(weights, shift=-0.5)
        assert (await service.manager.reload("vae")).version == good
        assert [each.problem for each in await service.manager.statuses()] == [None, None]


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize("tamper", [empty, cut_short, flip_a_bit, Path.unlink])
@pytest.mark.parametrize("file", ["model-*.pt", "latents-*.npz"])
async def test_a_reload_sees_files_that_were_damaged_behind_an_unchanged_manifest(
    weights: Path, settings: Settings, tamper: Callable[[Path], None], file: str
) -> None:
    """What serves is in memory and goes on; the next start would refuse the model."""
    write_autoencoder(weights, "coder")

    async with running(settings) as service:
        (path,) = (weights / "coder").glob(file)
        good = path.read_bytes()
        tamper(path)
        with pytest.raises(ModelUnusable, match=path.name):
            await service.manager.reload("coder")
        assert await service.picture("coder")
        (standing,) = (each for each in await service.manager.statuses() if each.model == "coder")
        assert (standing.state, path.name in str(standing.problem)) == ("serving", True)
        path.write_bytes(good)
        assert (await service.manager.reload("coder")).outcome == "unchanged"
        assert [each.problem for each in await service.manager.statuses()] == [None, None, None]


async def test_a_version_whose_table_finds_no_memory_leaves_the_old_one_serving(
    weights: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object) -> None:
        raise torch.OutOfMemoryError("no room for its table")

    async with running(settings) as service:
        first = service.version()
        export(weights)
        second = (await service.manager.reload("vae")).version
        with monkeypatch.context() as patch:
            patch.setattr("service.engine.host.Lane", no_memory)
            with pytest.raises(ModelUnusable, match="no room for its table"):
                await service.manager.roll_back("vae")
        assert service.version() == read_manifest(weights / "vae").version == second
        assert await service.picture()
        assert (await service.manager.roll_back("vae")).version == first


async def test_a_fault_of_a_change_is_its_answer_and_the_next_change_is_made(
    weights: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(directory: Path, trust: Trust) -> None:
        raise ZeroDivisionError

    async with running(settings) as service:
        version = export(weights)
        with monkeypatch.context() as patch:
            patch.setattr(manager_module, "read_any_manifest", fault)
            with pytest.raises(ChangeError, match="its log says why"):
                await service.manager.reload("vae")
        assert (await service.manager.reload("vae")).version == version


async def test_a_weights_folder_that_cannot_be_listed_is_an_answer(weights: Path, settings: Settings) -> None:
    async with running(settings) as service:
        weights.rename(weights.with_name("away"))
        for change in (service.manager.reload("vae"), service.manager.reload_all(), service.manager.statuses()):
            with pytest.raises(WeightsUnreadable, match="No such file"):
                await change
        assert await service.picture()  # nothing was unloaded


async def test_in_a_folder_that_cannot_be_written_a_rollback_lasts_until_the_next_reload(
    weights: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the read-only volume of a container."""

    def read_only(directory: Path, version: str) -> None:
        raise OSError(30, "Read-only file system")

    async with running(settings) as service:
        first = service.version()
        second = export(weights)
        await service.manager.reload("vae")
        monkeypatch.setattr(manager_module, "restore_manifest", read_only)
        result = await service.manager.roll_back("vae")
        assert (result.outcome, result.version, result.previous) == ("swapped", first, second)
        assert result.note
        assert "(Read-only file system)" in result.note
        assert f"copy manifest-{first}.json over it" in result.note
        assert service.version() == first
        await service.manager.follow()  # the folder has not changed since the service was asked
        (standing,) = (each for each in await service.manager.statuses() if each.model == "vae")
        assert (standing.version, standing.manifest_version, standing.problem) == (first, second, None)
        assert (await service.manager.reload("vae")).version == second


def test_a_watch_outlives_a_folder_that_cannot_be_listed(weights: Path, settings: Settings) -> None:
    """And says so for as long as it cannot."""
    failed: list[str] = []

    async def scenario() -> None:
        async with running(settings) as service, asyncio.timeout(60):
            background = Background(failed.append)
            background.repeat("watch", service.manager.follow, 0.001)
            weights.rename(weights.with_name("away"))
            while not background.failing:
                await asyncio.sleep(0.001)
            assert list(background.failing) == ["watch"]
            assert "No such file" in background.failing["watch"]
            assert await service.picture()
            weights.with_name("away").rename(weights)
            version = export(weights)
            while service.version() != version:
                await asyncio.sleep(0.001)
            while background.failing:
                await asyncio.sleep(0.001)
            background.stop()

    asyncio.run(scenario())
    assert set(failed) == {"watch"}
