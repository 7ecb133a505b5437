"""The models of a weights folder: those that can be served, and those that were rejected with the reason."""

import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from service.contract.files import ContractError
from service.contract.manifest import MAX_REASON, Manifest
from service.engine.device import thread_count
from service.engine.model import Model, Served, encoder_of
from service.engine.parts import decoder_of, text_encoder_of
from service.models.buckets import at_fixed_sizes
from service.models.diffusers.model import described, elsewhere, load_diffusers, with_tokenizers
from service.models.folders import Unusable, model_directories, read_any_manifest, trust_of
from service.models.golden import check_golden
from service.models.precision import at_precision
from service.models.previews import with_previews
from service.models.text_model import text_model
from service.models.torchscript import load_map, load_model
from service.models.warmup import RunExclusive, run_directly, warm_up
from service.settings import Settings

log = logging.getLogger(__name__)


@dataclass
class Registry:
    """Models by name. A rejected model does not affect the others, but the service is not ready while there is one."""

    served: dict[str, Served] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def refuse(self, name: str, failure: Unusable) -> None:
        """Remove a model and log the reason, with the traceback if the failure was unexpected."""
        self.served.pop(name, None)
        self.refused[name] = str(failure)
        log.error("model refused", extra={"model": name, "reason": str(failure)}, exc_info=failure.__cause__)


def pick_device(name: str) -> torch.device:
    """The device for a setting (auto, cpu or cuda). Raises ValueError if it is not available."""
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ValueError("GENSERVE_DEVICE=cuda, but torch finds no CUDA device")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def load_registry(settings: Settings, device: torch.device) -> Registry:
    """Prepare every model in ``weights_dir``, as many in parallel as there are engine threads."""
    registry = Registry()
    with ThreadPoolExecutor(thread_count(device, settings), "prepare") as pool:
        preparing = {
            name: pool.submit(prepare, directory, device, settings)
            for name, directory in model_directories(settings.weights_dir).items()
        }
    for name, future in preparing.items():
        try:
            registry.served[name] = future.result()
        except Unusable as failure:
            registry.refuse(name, failure)
    return registry


class KnownCosts(NamedTuple):
    """Milliseconds of forward passes by number of rows, of a model and of its parts; None: not known."""

    model: Mapping[int, float] | None = None
    encoder: Mapping[int, float] | None = None
    text: Mapping[int, float] | None = None
    decoder: Mapping[int, float] | None = None


NOT_MEASURED = KnownCosts()


def prepare(
    directory: Path,
    device: torch.device,
    settings: Settings,
    manifest: Manifest | None = None,
    run_exclusive: RunExclusive = run_directly,
    costs: KnownCosts = NOT_MEASURED,
) -> Served:
    """Verify, load and warm the model in ``directory``, and check its golden picture. Raises Unusable.

    ``manifest`` replaces the folder's; ``run_exclusive`` runs everything that uses the device, from warm-up on. What
    ``costs`` knows is not measured.
    """
    with unusable(directory):
        manifest = manifest or read_any_manifest(directory, trust_of(settings))
        model = at_precision(load(directory, device, manifest), settings.precision)
        model = with_previews(model, run_exclusive)
        parts = encoder_of(model), text_encoder_of(model), decoder_of(model)
        served = _warmed(model, settings, run_exclusive, costs.model)
        run_exclusive(lambda: check_golden(served.model))
        encoder, text, decoder = (
            None if part is None else _warmed(part, settings, run_exclusive, known)
            for part, known in zip(parts, costs[1:], strict=True)
        )
        if decoder is not None:
            served.cost.decode_ms = decoder.cost.row_ms()
        return replace(served, encoder=encoder, text=text, decoder=decoder)


def described_model(directory: Path, manifest: Manifest) -> Model:
    """The model as a process sees it that computes nothing: its functions are elsewhere. Raises ContractError."""
    device = torch.device("cpu")
    if manifest.pipeline is not None:
        return with_tokenizers(described(manifest, device), directory)
    if manifest.text is not None:
        parts = dict.fromkeys(("decode", "denoise", "encode_text"), elsewhere)
        return text_model(directory, manifest, device, parts)
    encode = elsewhere if "encode" in manifest.capabilities else None
    denoise = elsewhere if manifest.denoises else None
    return Model(manifest, device, elsewhere, denoise, encode=encode, latent_map=load_map(directory, manifest))


def load(directory: Path, device: torch.device, manifest: Manifest) -> Model:
    """Verify and load the model that ``manifest`` describes. Raises ContractError."""
    if manifest.pipeline is not None:
        return load_diffusers(directory, device, manifest)
    return load_model(directory, device, manifest)


@contextmanager
def unusable(directory: Path) -> Iterator[None]:
    """Convert any exception about the model in ``directory`` to Unusable.

    An artefact runs its own code with its own sizes, so it may raise anything; other models must not be affected.
    """
    try:
        yield
    except Unusable:
        raise
    except ContractError as failure:
        raise Unusable(str(failure)) from None
    except (RuntimeError, ValueError, torch.jit.Error) as failure:  # the model does not fit its manifest
        raise Unusable(f"{directory}: {last_line(failure)}") from None
    except Exception as failure:
        raise Unusable(f"{directory}: {last_line(failure)}") from failure


def _warmed(
    model: Model, settings: Settings, run_exclusive: RunExclusive, forward_ms: Mapping[int, float] | None
) -> Served:
    if model.device.type == "cuda" or settings.deterministic:
        model = at_fixed_sizes(model, settings.buckets())
    return Served(model, warm_up(model, settings, run_exclusive, forward_ms))


def last_line(failure: Exception) -> str:
    """The reason of a failure, at most ``MAX_REASON`` characters: a TorchScript traceback has it in its last line."""
    text = str(failure).strip().rsplit("\n", 1)[-1]
    kind = "" if isinstance(failure, ValueError) else f"{type(failure).__name__}: "
    return (text if text.startswith(kind) else kind + text)[:MAX_REASON]
