"""Changing models while requests are served.

A version is loaded, warmed and checked beside the others, and then deployed atomically: docs/decisions/0009.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from service.change_errors import (
    AlreadyServed,
    ChangeError,
    ChangeUnderWay,
    ModelUnusable,
    NoSuchVersion,
    NotServed,
    UnknownFolder,
    WeightsUnreadable,
)
from service.contract.artifact import check_files
from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, manifest_file, read_history, restore_manifest
from service.contract.signature import Trust
from service.metrics import Change, Metrics
from service.models.folders import Stamps, Unusable, model_directories, read_any_manifest, trust_of
from service.settings import Settings

log = logging.getLogger(__name__)

State = Literal["serving", "refused", "unloaded", "not loaded"]


@dataclass(frozen=True)
class ChangeResult:
    """The outcome of a change: the version for new requests, and the previous one.

    ``note``: what the operator must know besides, such as that a rollback does not survive a restart.
    """

    model: str
    outcome: Change
    version: str | None
    previous: str | None
    note: str | None = None


@dataclass(frozen=True)
class ModelStatus:
    """One model: the serving version, the manifest's version, and earlier ones to roll back to, newest first.

    ``problem``: why the folder's version could not be served at the last attempt.
    """

    model: str
    state: State
    version: str | None
    manifest_version: str | None
    earlier_versions: list[str]
    problem: str | None
    changing: bool


class Fleet(Protocol):
    """All engines of the service."""

    @property
    def served(self) -> Mapping[str, Manifest]:
        """By model, the manifest of the version that new requests get."""

    async def load(self, directory: Path, manifest: Manifest) -> Any:  # noqa: ANN401
        """A version that all engines loaded, warmed and checked, for ``deploy`` or ``discard``. Raises Unusable."""

    async def deploy(self, candidate: Any) -> Manifest | None:  # noqa: ANN401
        """Give new requests the version of ``load``; returns the manifest of the one that it replaces."""

    def discard(self, candidate: Any) -> None:  # noqa: ANN401
        """Unload a version that is not deployed."""

    async def withdraw(self, name: str) -> Manifest:
        """Stop serving a model to new requests; accepted ones are answered."""


class ModelManager:
    """Changes the models of ``fleet``, one at a time. Use it on one event loop.

    ``problems``: by model, why the version of its manifest is not served. ``changed`` is called after every change,
    also after one that failed.
    """

    def __init__(
        self,
        fleet: Fleet,
        settings: Settings,
        metrics: Metrics,
        problems: Mapping[str, str],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._fleet, self._settings, self._metrics, self._changed = fleet, settings, metrics, changed
        self._problems = dict(problems)
        #: Unloaded by an operator, and reloaded only by an operator.
        self._unloaded: set[str] = set()
        self._changing: set[str] = set()
        self._trust, self._stamps = trust_of(settings), Stamps()
        #: The stamps of the files that ``follow`` has handled, by model.
        self._seen: dict[str, object] = {}
        # One change at a time: a GPU then holds at most one extra version, and nothing else allocates on it during the
        # capture of a graph.
        self._lock = asyncio.Lock()

    @property
    def refused(self) -> dict[str, str]:
        """The models that should be served and are not, with the reasons."""
        return {name: why for name, why in self._problems.items() if name not in self._fleet.served}

    @property
    def ready(self) -> bool:
        """Whether at least one model is served and none is refused."""
        return bool(self._fleet.served) and not self.refused

    async def reload(self, name: str) -> ChangeResult:
        """Serve the version in the model's folder. Raises ChangeError; then the previous version keeps serving."""
        return await self._change(name, lambda: self._reload(name))

    async def load(self, name: str) -> ChangeResult:
        """As ``reload``, for a model that is not served."""
        if name in self._fleet.served:
            raise AlreadyServed(f"{name} is already served; reload it to serve another version.")
        return await self.reload(name)

    async def unload(self, name: str) -> ChangeResult:
        """Accept no more requests for the model; accepted ones are answered. Raises ChangeError."""
        changed = await self._change(name, lambda: self._withdraw(name))
        self._unloaded.add(name)
        return changed

    async def roll_back(self, name: str, version: str | None = None) -> ChangeResult:
        """Serve an earlier version, by default the last one replaced, and restore its manifest.

        In a folder that cannot be written, the manifest stays, and the result has a note. Raises ChangeError; then
        nothing is changed.
        """
        return await self._change(name, lambda: self._roll_back(name, version))

    async def reload_all(self) -> list[ChangeResult | ChangeError]:
        """Match the weights folder: reload every model, load new ones, unload those whose folder is gone."""
        directories = await self._directories()
        names = {*directories, *self._fleet.served, *self._problems} - self._unloaded
        return [await self._sync(name, name in directories) for name in sorted(names)]

    async def follow(self) -> None:
        """Reload the models whose manifest or weights have changed since the last call; unload none.

        Raises OSError when the weights folder cannot be listed.
        """
        for name, stamp in (await asyncio.to_thread(self._stamped)).items():
            if self._seen.get(name) == stamp or name in self._unloaded:
                continue
            if not isinstance(await self._sync(name, present=True), ChangeUnderWay | WeightsUnreadable):
                self._seen[name] = stamp

    def _stamped(self) -> dict[str, object]:
        """By model, what changes when its files do, of all that have a readable manifest or are diffusers folders."""
        stamps = {name: self._stamps.of(path) for name, path in model_directories(self._settings.weights_dir).items()}
        return {name: stamp for name, stamp in stamps.items() if stamp is not None}

    async def statuses(self) -> list[ModelStatus]:
        """Every model that is served or has a folder."""
        directories = await self._directories()
        names = sorted({*directories, *self._fleet.served, *self._problems})
        return [await self._status(name, directories.get(name)) for name in names]

    async def _change(self, name: str, change: Callable[[], Awaitable[ChangeResult]]) -> ChangeResult:
        if name in self._changing:
            raise ChangeUnderWay(f"Another change of {name} is in progress.")
        self._changing.add(name)
        try:
            async with self._lock:
                changed = await change()
        except ChangeError:
            raise
        except Exception as failure:  # a bug or a disk error must not block the next change
            raise self._failed(name, ChangeError("The service failed; its log says why."), failure) from None
        finally:
            self._changing.remove(name)
            self._changed()
        self._unloaded.discard(name)
        self._metrics.model_changes.labels(name, changed.outcome).inc()
        log.info("model changed", extra=vars(changed))
        return changed

    async def _sync(self, name: str, present: bool) -> ChangeResult | ChangeError:
        """Match one model to its folder; a failure is logged and returned."""
        try:
            return await (self.reload(name) if present else self._change(name, lambda: self._withdraw(name)))
        except ChangeError as failure:
            return failure

    async def _reload(self, name: str) -> ChangeResult:
        directory = await self._directory(name)
        try:
            manifest = await asyncio.to_thread(read_any_manifest, directory, self._trust)
            if not self._serves(manifest):
                return await self._deploy(directory, manifest)
            # The version is in memory, but damaged files would stop it from loading at the next start.
            await asyncio.to_thread(check_files, directory, manifest)
        except ContractError as failure:
            raise self._failed(name, ModelUnusable(str(failure))) from None
        self._problems.pop(name, None)
        return ChangeResult(name, "unchanged", manifest.version, manifest.version)

    async def _roll_back(self, name: str, version: str | None) -> ChangeResult:
        directory = await self._directory(name)
        earlier = await asyncio.to_thread(_earlier, directory, self._trust)
        manifest = next((each for each in earlier if version in (None, each.version)), None)
        if manifest is None:
            kept = ", ".join(each.version for each in earlier) or "none"
            raise NoSuchVersion(f"{name} has no such earlier version. Available: {kept}.")
        changed = await self._deploy(directory, manifest, restore=True)
        if changed.note is not None:  # the watch must not serve again what was rolled back
            self._seen[name] = await asyncio.to_thread(self._stamps.of, directory)
        return changed

    async def _deploy(self, directory: Path, manifest: Manifest, restore: bool = False) -> ChangeResult:
        """Deploy the version of ``manifest``; ``restore`` also makes it the folder's manifest."""
        name = directory.name
        try:
            candidate = await self._fleet.load(directory, manifest)
        except Unusable as failure:
            raise self._failed(name, ModelUnusable(str(failure)), failure.__cause__) from None
        note = await asyncio.to_thread(_restored, directory, manifest.version) if restore else None
        replaced = await self._fleet.deploy(candidate)
        self._problems.pop(name, None)
        return ChangeResult(name, "swapped", manifest.version, replaced.version if replaced else None, note)

    async def _withdraw(self, name: str) -> ChangeResult:
        refused = self._problems.pop(name, None)
        if name not in self._fleet.served:
            if refused is None:
                raise NotServed(f"{name[:64]!r} is not served.")
            self._metrics.forget(name)
            return ChangeResult(name, "unloaded", None, None)
        return ChangeResult(name, "unloaded", None, (await self._fleet.withdraw(name)).version)

    def _failed(self, name: str, failure: ChangeError, unexpected: BaseException | None = None) -> ChangeError:
        """Record a failed change; the log gets the traceback of ``unexpected``."""
        self._problems[name] = str(failure)
        self._metrics.model_changes.labels(name, "failed").inc()
        if name not in self._fleet.served:
            self._metrics.model_ready.labels(name).set(0)
        log.error("model not changed", extra={"model": name, "reason": str(failure)}, exc_info=unexpected)
        return failure

    def _serves(self, manifest: Manifest) -> bool:
        return self._fleet.served.get(manifest.name) == manifest

    async def _directories(self) -> dict[str, Path]:
        """The folders of models, also of those served whose manifest is gone. Raises WeightsUnreadable."""
        weights = self._settings.weights_dir
        served = [weights / name for name in self._fleet.served]
        try:
            found = await asyncio.to_thread(model_directories, weights)
            return {path.name: path for path in served if path.is_dir()} | found
        except OSError as failure:
            raise WeightsUnreadable(f"{weights} cannot be listed: {failure.strerror}") from None

    async def _directory(self, name: str) -> Path:
        directories = await self._directories()
        if name not in directories:
            raise UnknownFolder(name, directories)
        return directories[name]

    async def _status(self, name: str, directory: Path | None) -> ModelStatus:
        current, earlier = await asyncio.to_thread(_versions, directory, self._trust) if directory else (None, [])
        served = self._fleet.served.get(name)
        return ModelStatus(
            model=name,
            state=self._state(name),
            version=served.version if served else None,
            manifest_version=current,
            earlier_versions=earlier,
            problem=self._problems.get(name),
            changing=name in self._changing,
        )

    def _state(self, name: str) -> State:
        if name in self._fleet.served:
            return "serving"
        if name in self._problems:
            return "refused"
        return "unloaded" if name in self._unloaded else "not loaded"


def _earlier(directory: Path, trust: Trust) -> list[Manifest]:
    """The versions to roll back to."""
    current = _current(directory, trust)
    return [each for each in read_history(directory, trust) if each.version != current]


def _versions(directory: Path, trust: Trust) -> tuple[str | None, list[str]]:
    return _current(directory, trust), [each.version for each in _earlier(directory, trust)]


def _current(directory: Path, trust: Trust) -> str | None:
    """The manifest's version, None if the manifest is invalid."""
    try:
        return read_any_manifest(directory, trust).version
    except ContractError:
        return None


def _restored(directory: Path, version: str) -> str | None:
    """Restore the manifest of ``version``; returns a note if it cannot be written, as on a read-only volume."""
    try:
        restore_manifest(directory, version)
    except OSError as failure:
        return (
            f"{directory / MANIFEST_FILE} cannot be replaced ({failure.strerror}): the next reload or restart serves "
            f"the version that it names. To keep {version}, copy {manifest_file(version)} over it."
        )
    return None
