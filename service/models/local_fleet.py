"""The engine of this process, whose models a manager changes."""

import asyncio
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from pathlib import Path
from typing import TypeVar

import torch

from service.background import call_soon, log_failure
from service.contract.manifest import Manifest
from service.engine.deployment import Deployment
from service.engine.engine import Engine
from service.engine.host import Host
from service.models.folders import Unusable
from service.models.registry import prepare, unusable
from service.process import trim_memory
from service.settings import Settings

Result = TypeVar("Result")


class LocalFleet:
    """The engine of this process.

    A version is loaded off the event loop; its warm-up and checks run between other models' ticks, one forward pass at
    a time.
    """

    def __init__(self, engine: Engine, host: Host, device: torch.device, settings: Settings) -> None:
        self._engine, self._host, self._device, self._settings = engine, host, device, settings

    @property
    def served(self) -> Mapping[str, Manifest]:
        """By model, the manifest of the version that new requests get."""
        return {name: each.model.manifest for name, each in self._engine.deployments.items()}

    async def load(self, directory: Path, manifest: Manifest) -> Deployment:
        """A deployment of that version. Raises Unusable."""
        served = await asyncio.to_thread(
            prepare, directory, self._device, self._settings, manifest, self._run_exclusive
        )
        with unusable(directory):
            return self._engine.build(served)

    async def deploy(self, candidate: Deployment) -> Manifest | None:
        """Give new requests the version of ``load``; returns the manifest of the one that it replaces."""
        return self._retired(self._engine.deploy(candidate))

    def discard(self, candidate: Deployment) -> None:
        """Its memory is freed with the last reference."""

    async def withdraw(self, name: str) -> Manifest:
        """Stop serving a model to new requests; accepted ones are answered."""
        manifest = self._retired(self._engine.withdraw(name))
        assert manifest is not None
        return manifest

    def _run_exclusive(self, work: Callable[[], Result], /) -> Result:
        """Run ``work`` between two ticks and wait for it. Called off the event loop."""
        try:
            return self._host.run_exclusive(work).result()
        except CancelledError:
            raise Unusable("the service is stopping") from None

    def _retired(self, deployment: Deployment | None) -> Manifest | None:
        """Return memory to the system once the last request of ``deployment`` is answered."""
        if deployment is None:
            return None
        for each in deployment.parts:
            finalizer = weakref.finalize(each.model, call_soon, asyncio.get_running_loop(), self._trim_memory)
            finalizer.atexit = False
        return deployment.model.manifest

    def _trim_memory(self) -> None:
        asyncio.get_running_loop().run_in_executor(None, trim_memory).add_done_callback(log_failure)
        if self._device.type == "cuda":
            self._host.run_exclusive(torch.cuda.empty_cache).add_done_callback(log_failure)
