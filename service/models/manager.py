"""Models in manager: versions come and go while requests are served.

A version is read, hashed and loaded off the event loop; whatever it computes before it serves takes its turn among the
ticks of the others, call by call. Then it is deployed at one stroke:
docs/decisions/0009-replacing-models-without-a-restart.md.
"""

import asyncio
import logging
import weakref
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import torch

from service.background import log_failure
from service.contract.artifact import check_files
from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, read_history, read_manifest, write_manifest
from service.engine.engine import Deployment, Engine
from service.errors import (
    AlreadyServed,
    ChangeError,
    ChangeUnderWay,
    FolderNotWritable,
    ModelUnusable,
    NoSuchVersion,
    NotServed,
    UnknownFolder,
    WeightsUnreadable,
)
from service.metrics import Change, Metrics
from service.models.registry import Unusable, model_directories, prepare, unusable
from service.process import give_memory_back
from service.settings import Settings

log = logging.getLogger(__name__)

Result = TypeVar("Result")
State = Literal["serving", "refused", "unloaded", "not loaded"]


@dataclass(frozen=True)
class Changed:
    """What came of a change: the version that new requests get, and the one that they got before."""

    model: str
    outcome: Change
    version: str | None
    previous: str | None


@dataclass(frozen=True)
class Standing:
    """One model: which version serves, which one its manifest names, which ones a rollback finds, last replaced first.

    ``problem`` says why what the folder holds could not be served when it was last tried.
    """

    model: str
    state: State
    version: str | None
    manifest_version: str | None
    earlier_versions: list[str]
    problem: str | None
    changing: bool


class ModelManager:
    """Changes of the models that ``engine`` serves, one at a time. Lives on its event loop.

    ``problems`` are the reasons, by name, why a folder's model is not served, or not in the version that its manifest
    names.
    """

    def __init__(
        self,
        engine: Engine,
        device: torch.device,
        settings: Settings,
        metrics: Metrics,
        problems: Mapping[str, str],
    ) -> None:
        self._engine, self._device, self._settings, self._metrics = engine, device, settings, metrics
        self._problems = dict(problems)
        #: Unloaded by an operator, who alone brings them back.
        self._set_aside: set[str] = set()
        self._changing: set[str] = set()
        #: What ``follow`` saw of each manifest that it has brought.
        self._seen: dict[str, object] = {}
        # One at a time, whatever the model: a GPU's memory need not hold more than one version too many, and nothing
        # else may allocate on it while a graph is captured.
        self._lock = asyncio.Lock()

    @property
    def refused(self) -> dict[str, str]:
        """The models that are not served, and should be, with the reason."""
        return {name: why for name, why in self._problems.items() if name not in self._engine.deployments}

    @property
    def ready(self) -> bool:
        """Whether there is a model and none is refused."""
        return bool(self._engine.deployments) and not self.refused

    async def reload(self, name: str) -> Changed:
        """Serve what the model's folder holds. Raises ChangeError, and what served before still does."""
        return await self._change(name, lambda: self._bring(name))

    async def load(self, name: str) -> Changed:
        """As ``reload``, for a model that is not served."""
        if name in self._engine.deployments:
            raise AlreadyServed(f"{name} is served; to have another version, reload it.")
        return await self.reload(name)

    async def unload(self, name: str) -> Changed:
        """Take no more requests for the model; those that it has are answered. Raises ChangeError."""
        changed = await self._change(name, lambda: self._withdraw(name))
        self._set_aside.add(name)
        return changed

    async def roll_back(self, name: str, version: str | None = None) -> Changed:
        """Make an earlier version the manifest's and serve it; the last one that was replaced, if none is named.

        Raises ChangeError; then neither is done.
        """
        return await self._change(name, lambda: self._roll_back(name, version))

    async def reload_all(self) -> list[Changed | ChangeError]:
        """Serve what the weights folder holds: reload every model, load new ones, unload those whose folder is gone."""
        directories = await self._directories()
        names = {*directories, *self._engine.deployments, *self._problems} - self._set_aside
        return [await self._align(name, name in directories) for name in sorted(names)]

    async def follow(self) -> None:
        """Reload what has another manifest than when it was looked at last. Never unloads anything.

        Raises OSError when the weights folder cannot be listed.
        """
        for name, stamp in (await asyncio.to_thread(_stamps, self._settings.weights_dir)).items():
            if self._seen.get(name) == stamp or name in self._set_aside:
                continue
            if not isinstance(await self._align(name, present=True), ChangeUnderWay | WeightsUnreadable):
                self._seen[name] = stamp

    async def standings(self) -> list[Standing]:
        """Every model that is served or has a folder."""
        directories = await self._directories()
        names = sorted({*directories, *self._engine.deployments, *self._problems})
        return [await self._standing(name, directories.get(name)) for name in names]

    async def _change(self, name: str, change: Callable[[], Awaitable[Changed]]) -> Changed:
        if name in self._changing:
            raise ChangeUnderWay(f"Another change of {name} is not done yet.")
        self._changing.add(name)
        try:
            async with self._lock:
                changed = await change()
        except ChangeError:
            raise
        except Exception as failure:  # a fault of this service, or of the disk; the next change must be possible
            raise self._failed(name, ChangeError("The service failed; its log says why."), failure) from None
        finally:
            self._changing.remove(name)
        self._set_aside.discard(name)
        self._metrics.model_changes.labels(name, changed.outcome).inc()
        log.info("model changed", extra=vars(changed))
        return changed

    async def _align(self, name: str, present: bool) -> Changed | ChangeError:
        """Bring what serves in line with the folder; what fails is logged by then."""
        try:
            return await (self.reload(name) if present else self._change(name, lambda: self._withdraw(name)))
        except ChangeError as failure:
            return failure

    async def _bring(self, name: str) -> Changed:
        directory = await self._directory(name)
        try:
            manifest = await asyncio.to_thread(read_manifest, directory)
            if not self._serves(manifest):
                return await self._deploy(directory, manifest)
            # What serves is in memory; files that were damaged behind it would refuse the model at the next start.
            await asyncio.to_thread(check_files, directory, manifest)
        except ContractError as failure:
            raise self._failed(name, ModelUnusable(str(failure))) from None
        self._problems.pop(name, None)
        return Changed(name, "unchanged", manifest.version, manifest.version)

    async def _roll_back(self, name: str, version: str | None) -> Changed:
        directory = await self._directory(name)
        earlier = await asyncio.to_thread(_earlier, directory)
        manifest = next((each for each in earlier if version in (None, each.version)), None)
        if manifest is None:
            kept = ", ".join(each.version for each in earlier) or "none"
            raise NoSuchVersion(f"{name} has no such earlier version. There is: {kept}.")
        return await self._deploy(directory, manifest, rename=True)

    async def _deploy(self, directory: Path, manifest: Manifest, rename: bool = False) -> Changed:
        """Give new requests the version of ``manifest``; with ``rename``, it becomes the folder's too."""
        name = directory.name
        try:
            served = await asyncio.to_thread(prepare, directory, self._device, self._settings, manifest, self._turn)
            with unusable(directory):
                deployment = self._engine.build(served)
            if rename:
                await asyncio.to_thread(write_manifest, directory, manifest)
        except Unusable as failure:
            raise self._failed(name, ModelUnusable(str(failure)), failure.__cause__) from None
        except OSError as failure:
            reason = f"{directory / MANIFEST_FILE} cannot be replaced: {failure.strerror}"
            raise self._failed(name, FolderNotWritable(reason)) from None
        replaced = self._engine.deploy(deployment)
        self._problems.pop(name, None)
        if replaced is None:
            return Changed(name, "swapped", manifest.version, None)
        self._give_memory_back_after(replaced)
        return Changed(name, "swapped", manifest.version, replaced.model.manifest.version)

    async def _withdraw(self, name: str) -> Changed:
        refused = self._problems.pop(name, None)
        if name not in self._engine.deployments:
            if refused is None:
                raise NotServed(f"{name[:64]!r} is not served.")
            self._metrics.forget(name)
            return Changed(name, "unloaded", None, None)
        withdrawn = self._engine.withdraw(name)
        self._give_memory_back_after(withdrawn)
        return Changed(name, "unloaded", None, withdrawn.model.manifest.version)

    def _failed(self, name: str, failure: ChangeError, unforeseen: BaseException | None = None) -> ChangeError:
        """Note that a change of the model failed; the log gets the traceback of what was ``unforeseen``."""
        self._problems[name] = str(failure)
        self._metrics.model_changes.labels(name, "failed").inc()
        if name not in self._engine.deployments:
            self._metrics.model_ready.labels(name).set(0)
        log.error("model not changed", extra={"model": name, "reason": str(failure)}, exc_info=unforeseen)
        return failure

    def _turn(self, work: Callable[[], Result], /) -> Result:
        """Have the engine do ``work`` between ticks, and wait for it. Called off the event loop."""
        try:
            return self._engine.run_exclusive(work).result()
        except CancelledError:
            raise Unusable("the service is stopping") from None

    def _serves(self, manifest: Manifest) -> bool:
        deployment = self._engine.deployments.get(manifest.name)
        return deployment is not None and deployment.model.manifest == manifest

    def _give_memory_back_after(self, deployment: Deployment) -> None:
        """Once the last request that began with ``deployment`` is answered."""
        for each in filter(None, (deployment, deployment.encoder)):
            finalizer = weakref.finalize(each.model, _soon, asyncio.get_running_loop(), self._give_memory_back)
            finalizer.atexit = False

    def _give_memory_back(self) -> None:
        asyncio.get_running_loop().run_in_executor(None, give_memory_back).add_done_callback(log_failure)
        if self._device.type == "cuda":
            self._engine.run_exclusive(torch.cuda.empty_cache).add_done_callback(log_failure)

    async def _directories(self) -> dict[str, Path]:
        """Raises WeightsUnreadable."""
        weights = self._settings.weights_dir
        try:
            return await asyncio.to_thread(model_directories, weights)
        except OSError as failure:
            raise WeightsUnreadable(f"{weights} cannot be listed: {failure.strerror}") from None

    async def _directory(self, name: str) -> Path:
        directories = await self._directories()
        if name not in directories:
            raise UnknownFolder(name, directories)
        return directories[name]

    async def _standing(self, name: str, directory: Path | None) -> Standing:
        current, earlier = await asyncio.to_thread(_versions, directory) if directory else (None, [])
        deployment = self._engine.deployments.get(name)
        return Standing(
            model=name,
            state=self._state(name),
            version=deployment.model.manifest.version if deployment else None,
            manifest_version=current,
            earlier_versions=earlier,
            problem=self._problems.get(name),
            changing=name in self._changing,
        )

    def _state(self, name: str) -> State:
        if name in self._engine.deployments:
            return "serving"
        if name in self._problems:
            return "refused"
        return "unloaded" if name in self._set_aside else "not loaded"


def _soon(loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
    """Have ``loop`` call back, unless it has ended: then there is nothing left to do."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback)


def _earlier(directory: Path) -> list[Manifest]:
    """The versions that a rollback finds."""
    current = _current(directory)
    return [each for each in read_history(directory) if each.version != current]


def _versions(directory: Path) -> tuple[str | None, list[str]]:
    return _current(directory), [each.version for each in _earlier(directory)]


def _current(directory: Path) -> str | None:
    """The version that the manifest names, None where it is not valid."""
    try:
        return read_manifest(directory).version
    except ContractError:
        return None


def _stamps(weights: Path) -> dict[str, object]:
    """What tells a folder's manifest from the one that was there before, by name; those that can be read."""
    stamps: dict[str, object] = {}
    for name, directory in model_directories(weights).items():
        try:
            status = (directory / MANIFEST_FILE).stat()
        except OSError:
            continue
        stamps[name] = status.st_ino, status.st_size, status.st_mtime_ns
    return stamps
