"""The models of a weights folder: those that can be served, and those that were refused with the reason."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE
from service.engine.buckets import at_fixed_sizes
from service.engine.cost import CostModel
from service.engine.model import Model, encoder_of, load_model
from service.engine.warmup import warm_up
from service.settings import Settings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """A model that is verified and warmed, with its price list; so is its encoder, if it has one."""

    model: Model
    cost: CostModel
    encoder: "Served | None" = None


@dataclass
class Registry:
    """Models by name. A refused model takes no other with it, but the service is not ready with one."""

    served: dict[str, Served] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        """Whether there is a model and none was refused."""
        return bool(self.served) and not self.refused


def pick_device(name: str) -> torch.device:
    """The device that a setting (auto, cpu or cuda) means here. Raises ValueError when it is not there."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("GENSERVE_DEVICE=cuda, but torch finds no CUDA device here")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def load_registry(settings: Settings, device: torch.device) -> Registry:
    """Verify, load and warm every model under ``weights_dir``."""
    registry = Registry()
    for directory in _model_directories(settings.weights_dir):
        try:
            model = load_model(directory, device)
            encoder = encoder_of(model)
            served = None if encoder is None else _warmed(encoder, settings)
            registry.served[model.name] = replace(_warmed(model, settings), encoder=served)
        except (ContractError, RuntimeError, ValueError) as failure:
            reason = str(failure) if isinstance(failure, ContractError) else f"{directory}: {_last_line(failure)}"
            registry.refused[directory.name] = reason
            log.error("model refused", extra={"model": directory.name, "reason": reason})
    return registry


def _warmed(model: Model, settings: Settings) -> Served:
    if model.device.type == "cuda" or settings.deterministic:
        model = at_fixed_sizes(model, settings.buckets())
    return Served(model, warm_up(model, settings))


def _model_directories(weights: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(weights.glob(f"*/{MANIFEST_FILE}")))


def _last_line(failure: Exception) -> str:
    """What a TorchScript traceback, which runs over many lines, comes to."""
    return str(failure).strip().rsplit("\n", 1)[-1]
