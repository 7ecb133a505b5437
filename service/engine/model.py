"""A loaded model: its manifest and its functions on a device. The only file of the service that reads TorchScript."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from service.contract.artifact import read_artifact
from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, SolverName, read_manifest
from service.sampling.schedules import max_steps
from service.sampling.solvers import EMPTY_PLAN, Plan, make_plan
from service.sampling.step import Denoise

Decode = Callable[[Tensor, Tensor], Tensor]

# The profiling executor watches a function's first calls and compiles it anew for the shapes it has seen: a pause in
# the middle of serving whenever a batch has another size. Calls are as fast without it.
torch._C._jit_set_profiling_executor(False)

_plan = lru_cache(maxsize=256)(make_plan)


@dataclass(frozen=True)
class Model:
    """What the engine needs of one artefact.

    ``decode``: (batch, *latent), (batch,) int64 -> (batch, channel, height, width) in [-1, 1]. ``denoise`` predicts the
    clean latent (see ``service.sampling.step.Denoise``) and is None for models that decode at once. ``call_sizes`` are
    the numbers of rows that both are computed at, whatever they are given; none, any.
    """

    manifest: Manifest
    device: torch.device
    decode: Decode
    denoise: Denoise | None
    call_sizes: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """The name it is asked for by."""
        return self.manifest.name

    @property
    def max_steps(self) -> int:
        """The longest plan that this model has; 0 when it decodes at once."""
        if self.manifest.noise_schedule is None or self.manifest.t_max is None:
            return 0
        return max_steps(self.manifest.noise_schedule, self.manifest.t_max)

    def padding(self, rows: int) -> int:
        """Rows that a call with ``rows`` computes in vain."""
        if not self.call_sizes:
            return 0
        return next((size - rows for size in self.call_sizes if size >= rows), -rows % self.call_sizes[-1])

    def plan(self, solver: SolverName | None = None, steps: int | None = None) -> Plan:
        """The steps of one picture, the manifest's defaults where not given; empty for a model that decodes at once."""
        manifest = self.manifest
        if manifest.noise_schedule is None or manifest.t_max is None or manifest.defaults is None:
            return EMPTY_PLAN
        chosen = manifest.defaults
        return _plan(manifest.noise_schedule, manifest.t_max, solver or chosen.solver, steps or chosen.steps)


def load_model(directory: Path, device: torch.device, manifest: Manifest | None = None) -> Model:
    """Verify and load the model in ``directory``: of ``manifest``, or of the one that is there.

    Raises:
        ContractError: the manifest or the weights are missing, damaged, altered, or not what the manifest says.
    """
    manifest = manifest or read_manifest(directory)
    if manifest.name != directory.name:
        raise ContractError(directory / MANIFEST_FILE, f"name: {manifest.name} in a folder named {directory.name}")
    payload = read_artifact(directory, manifest)
    path = directory / manifest.artifact.file
    try:
        module = torch.jit.load(io.BytesIO(payload), map_location=device)  # type: ignore[no-untyped-call]
        decode = _prepared(module.decode, device)
        denoise = _prepared(module.denoise, device) if manifest.denoises else None
    except (RuntimeError, AttributeError) as failure:
        raise ContractError(path, f"not a TorchScript artefact of family {manifest.family}") from failure
    return Model(manifest, device, decode, denoise)


def _prepared(part: torch.jit.ScriptModule, device: torch.device) -> Callable[..., Any]:
    """One part, frozen: parameters become constants, and convolutions get the memory layout they are fastest in.

    Its arithmetic type is the artefact's own affair: it takes and gives float32.
    """
    placed = part.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    frozen: Callable[..., Any] = torch.jit.freeze(placed)
    return frozen
