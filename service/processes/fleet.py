"""The engine processes: their models, and their replacement when they die or hang."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from service.background import log_failure
from service.contract.manifest import Manifest
from service.engine.ready import log_ready
from service.metrics import Metrics
from service.models.folders import Unusable
from service.processes.control import PARTS, EngineAddress, Seat, Version, cost_of
from service.processes.members import EngineDied, EngineMember, kill_hanging
from service.settings import Settings
from service.supervision.restarts import RestartBudget
from service.supervision.run_folder import RunFolder

log = logging.getLogger(__name__)

#: Seconds for which engines may finish their ticks at the end: nobody waits for the results.
STOP_S = 1.0


class TooManyDeaths(Exception):
    """So many processes died within a minute that the service must end."""


class ProcessFleet:
    """The engines of the service; ``seats`` has one more than ``engines`` if there is to be a spare.

    ``changed`` has the API processes apply a change; ``failed`` is called when the service must end.
    """

    def __init__(
        self,
        folder: RunFolder,
        seats: Sequence[Seat],
        engines: int,
        settings: Settings,
        metrics: Metrics,
        budget: RestartBudget,
        changed: Callable[[], Coroutine[Any, Any, None]],
        failed: Callable[[str], None],
    ) -> None:
        self._folder, self._settings, self._metrics, self._budget = folder, settings, metrics, budget
        self._changed, self._failed = changed, failed
        self._numbers = itertools.count(1)
        self._free_seats: asyncio.Queue[Seat] = asyncio.Queue()
        for seat in seats:
            self._free_seats.put_nowait(seat)
        self._engines: dict[int, EngineMember] = {}
        #: The process that takes over next, or the task that starts it.
        self._spare: asyncio.Task[EngineMember] | None = None
        self._members: set[EngineMember] = set()
        #: The process that loads a version now, or failed to.
        self._trial: EngineMember | None = None
        self.addresses = [EngineAddress(number, 0, "") for number in range(engines)]
        #: The versions that new requests get, by model.
        self.current: dict[str, Version] = {}
        #: All that requests still use, by number.
        self._versions: dict[int, Version] = {}
        self._manifests: dict[str, Manifest] = {}
        self._gates: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False

    @property
    def served(self) -> Mapping[str, Manifest]:
        """By model, the manifest of the version that new requests get."""
        return self._manifests

    @property
    def threads(self) -> int:
        """The threads of all engines together."""
        return sum(each.threads for each in self._engines.values())

    async def start(self, manifests: Mapping[Path, Manifest]) -> dict[str, str]:
        """Start the engines with the models in these folders; returns those that cannot be served, with the reasons.

        Raises TooManyDeaths.
        """
        refused: dict[str, str] = {}
        versions = [self._new_version(directory, manifest) for directory, manifest in manifests.items()]
        self._start(kill_hanging(lambda: self._members))
        for address in self.addresses:
            member = await self._begin(
                versions, lambda version, reason: refused.update({_name(version): reason}), address.number
            )
            await self._serve(address.number, member, [])
        for version in versions:
            self._versions[version.number] = self.current[_name(version)] = version
            self._manifests[_name(version)] = version.parsed()
        return refused

    def start_spare(self) -> None:
        """Start the process that takes over when an engine dies, if there is to be one."""
        if self._settings.spare_engine and not self._stopping:
            self._spare = self._start(self._begin([*self._versions.values()], self._missing_in_spare, 0))

    async def stop(self) -> None:
        """End all engine processes."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        for member in self._members:
            member.stop()
        ended = [asyncio.create_task(member.child.wait()) for member in self._members]
        if ended:
            await asyncio.wait(ended, timeout=STOP_S)
        self.kill()

    def kill(self) -> None:
        """End all engine processes at once."""
        self._stopping = True
        for member in self._members:
            member.child.kill()

    async def load(self, directory: Path, manifest: Manifest) -> Version:
        """A version that all engines have loaded. Raises Unusable.

        The spare tries it first: what hangs or crashes there disturbs nobody.
        """
        version = self._new_version(directory, manifest)
        if self._spare is not None:
            await asyncio.wait([self._spare], timeout=self._settings.load_timeout_s)
        trial = [self._spare.result()] if self._spare is not None and _succeeded(self._spare) else []
        try:
            for member in (*trial, *self._engines.values()):
                self._trial = member
                await _load(member, version, self._settings)
        except EngineDied:
            self.discard(version)
            raise Unusable(f"{directory}: an engine process died while it loaded this version") from None
        except Unusable:
            self.discard(version)
            raise
        self._trial = None
        self._versions[version.number] = version
        return version

    async def deploy(self, candidate: Version) -> Manifest | None:
        """Give new requests the version of ``load``; returns the manifest of the one that it replaces."""
        name = _name(candidate)
        replaced = self._manifests.get(name)
        self.current[name], self._manifests[name] = candidate, candidate.parsed()
        await self._changed()
        return replaced

    def discard(self, candidate: Version) -> None:
        """Unload a version that is not deployed, or that no request uses any more."""
        self._versions.pop(candidate.number, None)
        for member in self._members:
            member.unload(candidate.number)

    async def withdraw(self, name: str) -> Manifest:
        """Stop serving a model to new requests; accepted ones are answered."""
        del self.current[name]
        manifest = self._manifests.pop(name)
        await self._changed()
        return manifest

    def unload_unused(self, used: set[int]) -> None:
        """Unload the versions that neither new requests get nor running ones use."""
        current = {version.number for version in self.current.values()}
        for version in list(self._versions.values()):
            if version.number not in current | used:
                self.discard(version)

    def _new_version(self, directory: Path, manifest: Manifest) -> Version:
        gate = self._gates.setdefault(manifest.name, PARTS * len(self._gates))
        return Version(next(self._numbers), gate, str(directory), manifest.model_dump_json())

    async def _begin(
        self, versions: list[Version], refuse: Callable[[Version, str], None], device: int
    ) -> EngineMember:
        """A process that has loaded ``versions``. Those that cannot be are refused, and removed from the list.

        If the process dies while it loads several at a time, the next one loads them one by one, to find the culprit.
        Raises TooManyDeaths.
        """
        at_a_time = max(1, len(versions))
        while True:
            try:
                member = await self._new_member(device)
                if await _load_all(member, versions, at_a_time, refuse, self._settings):
                    return member
            except EngineDied as failure:
                log.warning("engine process ended while it started", extra={"engine_process": str(failure)})
                self._note_death()
                await asyncio.sleep(self._budget.delay_s())
            at_a_time = 1

    async def _new_member(self, device: int) -> EngineMember:
        """A new process, in a seat that is free or about to be: its last process is ending. Raises EngineDied."""
        seat = await self._free_seats.get()
        try:
            member = await EngineMember.start(seat, self._settings, device)
        except EngineDied:
            self._free_seats.put_nowait(seat)
            raise
        self._members.add(member)
        self._start(self._replace_when_ended(member))
        return member

    async def _serve(self, number: int, member: EngineMember, inside: list[int]) -> None:
        """Have ``member`` be engine ``number``. Raises EngineDied."""
        generation = self.addresses[number].generation + 1
        path = self._folder.file(f"engine-{number}-{generation}")
        await member.serve(path)
        self._engines[number] = member
        self.addresses[number] = EngineAddress(number, generation, str(path), inside)
        log.info("engine ready", extra={"engine": number, "pid": member.child.pid})

    async def _replace_when_ended(self, member: EngineMember) -> None:
        """Replace ``member`` when it has ended."""
        await member.child.wait()
        self._members.discard(member)
        self._metrics.ended(member.seat.name)
        inside = member.heartbeat.rows_inside()
        self._free_seats.put_nowait(member.seat)
        if self._stopping:
            return
        numbers = [number for number, each in self._engines.items() if each is member]
        told = {"engine_process": member.seat.name, "reason": member.child.exit_reason(), "rows": len(inside)}
        log.error("engine process ended", extra=told)
        self._metrics.process_deaths.labels("engine").inc()
        if numbers:
            del self._engines[numbers[0]]
            await self._replace(numbers[0], inside)
        elif self._spare is not None and _succeeded(self._spare) and self._spare.result() is member:
            if member is not self._trial:  # else a version killed it, and is refused for that
                self._note_death()
            self.start_spare()

    async def _replace(self, number: int, inside: list[int]) -> None:
        began = time.monotonic()
        while number not in self._engines:
            self._note_death()
            member = await self._successor(number)
            try:
                for version in self._versions.values():
                    if version.number not in member.loaded:
                        await member.load(version)
                await self._serve(number, member, inside)
            except (EngineDied, Unusable) as failure:
                member.kill()
                log.warning("engine not replaced yet", extra={"engine": number, "reason": str(failure)})
        self._start(self._changed())
        log.info("engine replaced", extra={"engine": number, "seconds": round(time.monotonic() - began, 3)})
        self.start_spare()

    async def _successor(self, device: int) -> EngineMember:
        spare, self._spare = self._spare, None
        if spare is not None:
            member = await spare
            if member.usable:
                return member
        return await self._begin([*self._versions.values()], self._missing_in_spare, device)

    def _missing_in_spare(self, version: Version, reason: str) -> None:
        """The engines serve it: it is tried again when the spare takes over."""
        log.error("spare engine without a model", extra={"model": _name(version), "reason": reason})

    def _note_death(self) -> None:
        if not self._budget.note():
            self._failed(f"{self._budget.most} processes died within {self._budget.within_s:g} s")
            raise TooManyDeaths

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """A fault in supervision ends the service, so that the container or service manager restarts it."""
        self._tasks.discard(task)
        if not task.cancelled() and (failure := task.exception()) is not None and not self._stopping:
            if not isinstance(failure, TooManyDeaths):
                log_failure(task)
            self._failed(f"the supervision of the engines failed: {type(failure).__name__}")


async def _load_all(
    member: EngineMember,
    versions: list[Version],
    at_a_time: int,
    refuse: Callable[[Version, str], None],
    settings: Settings,
) -> bool:
    """Load ``versions``, so many at a time; whether the process is still alive then."""
    for group in [versions[start : start + at_a_time] for start in range(0, len(versions), at_a_time)]:
        loads = (_load(member, version, settings) for version in group)
        results = await asyncio.gather(*loads, return_exceptions=True)
        for version, result in zip(group, results, strict=True):
            if isinstance(result, Unusable):
                refuse(version, str(result))
                versions.remove(version)
            elif result is not None and not isinstance(result, EngineDied):
                raise result
            elif result is not None and len(group) == 1:
                refuse(version, f"{version.directory}: the engine process died while it loaded this version")
                versions.remove(version)
        if any(isinstance(each, EngineDied) for each in results) or not member.usable:
            return False
    return True


async def _load(member: EngineMember, version: Version, settings: Settings) -> None:
    """Load ``version``, and keep the first costs: all engines and all API processes must reckon from the same ones."""
    loaded = await member.load(version)
    if version.costs is not None:
        return
    version.costs = loaded.costs
    cost, text = cost_of(loaded.costs.model, settings), loaded.costs.text
    if loaded.costs.decoder is not None:
        cost.decode_ms = cost_of(loaded.costs.decoder, settings).row_ms()
    log_ready(version.parsed(), cost, None if text is None else cost_of(text, settings))


def _succeeded(task: "asyncio.Task[Any]") -> bool:
    return task.done() and not task.cancelled() and task.exception() is None


def _name(version: Version) -> str:
    return version.parsed().name
