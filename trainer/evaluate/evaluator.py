"""The classifier on disk with facts of its training. Scores of different evaluators are not comparable."""

import hashlib
import io
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from torch import Tensor, nn
from tqdm import tqdm

from trainer.config import DatasetName
from trainer.data import ImageData, to_unit_range
from trainer.evaluate.classifier import FEATURES
from trainer.evaluate.errors import EvaluationError
from trainer.export import archive
from trainer.files import write

FACTS_FILE = "evaluator.json"
BATCH_SIZE = 250


class EvaluatorFacts(BaseModel):
    """The content of evaluator.json: ``accuracy`` on ``test_images`` images, ``features`` is their dimension."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^evaluator-[0-9a-f]{8}\.pt$")]
    sha256: str
    dataset: DatasetName
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    features: int
    accuracy: float
    test_images: int
    command: str
    epochs: int
    seconds: float
    device: str
    parameters: int
    torch_version: str

    @property
    def version(self) -> str:
        """The first eight characters of the file's hash."""
        return self.sha256[:8]


class Evaluator:
    """A trained classifier that returns features and classes of images."""

    def __init__(self, facts: EvaluatorFacts, network: nn.Module, device: torch.device) -> None:
        self.facts, self.device = facts, device
        self.network = network.eval().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """Features (count, dimension) float64 and classes (count,) int64 of uint8 (count, channel, height, width).

        Raises EvaluationError when their shape differs from that of the training images.
        """
        self.require_shape(tuple(pictures.shape[1:]), "the images are")
        batches = tqdm(torch.split(pictures, BATCH_SIZE), desc="features", leave=False)
        predicted = [self._predict(batch) for batch in batches]
        return torch.cat([features for features, _ in predicted]), torch.cat([classes for _, classes in predicted])

    def require_shape(self, image_shape: tuple[int, ...], what: str) -> None:
        """Raise EvaluationError unless ``image_shape``, (channel, height, width), is that of the evaluator."""
        if image_shape != self.facts.image_shape:
            theirs, ours = (" x ".join(map(str, shape)) for shape in (image_shape, self.facts.image_shape))
            raise EvaluationError(
                f"{what} {theirs}, the evaluator {self.facts.version} of {self.facts.dataset} takes {ours}: "
                "train another with python -m trainer evaluator and name it with --evaluator"
            )

    def _predict(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        inputs = to_unit_range(batch.to(self.device)).contiguous(memory_format=torch.channels_last)
        features, logits = self.network(inputs)
        return features.double(), logits.argmax(1)


def write_evaluator(
    folder: Path, network: nn.Module, test: ImageData, accuracy: float, **training: object
) -> EvaluatorFacts:
    """Write evaluator-<sha8>.pt, then evaluator.json; files of earlier evaluators are kept.

    ``training`` has the remaining fields of EvaluatorFacts: command, epochs, seconds, device.
    """
    payload = archive(network.cpu().to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    sha256 = hashlib.sha256(payload).hexdigest()
    facts = EvaluatorFacts.model_validate(
        {
            "file": f"evaluator-{sha256[:8]}.pt",
            "sha256": sha256,
            "dataset": test.facts.name,
            "image_shape": test.facts.image_shape,
            "class_names": test.facts.class_names,
            "features": FEATURES,
            "accuracy": accuracy,
            "test_images": len(test.images),
            "parameters": sum(weight.numel() for weight in network.parameters()),
            "torch_version": torch.__version__.split("+")[0],
            **training,
        }
    )
    write(folder / facts.file, payload)
    write(folder / FACTS_FILE, facts.model_dump_json(indent=2).encode() + b"\n")
    return facts


def load_evaluator(folder: Path, device: torch.device) -> Evaluator:
    """The evaluator in ``folder``. Raises EvaluationError when it is missing, damaged or altered."""
    facts = _read_facts(folder / FACTS_FILE)
    path = folder / facts.file
    try:
        payload = path.read_bytes()
    except OSError as failure:
        raise EvaluationError(f"{path}: {failure.strerror}") from failure
    if hashlib.sha256(payload).hexdigest() != facts.sha256:
        raise EvaluationError(f"{path}: its SHA-256 is not {facts.sha256}, so its scores are not comparable")
    try:
        network = torch.jit.load(io.BytesIO(payload), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as failure:
        raise EvaluationError(f"{path} is not TorchScript") from failure
    return Evaluator(facts, network, device)


def _read_facts(path: Path) -> EvaluatorFacts:
    try:
        return EvaluatorFacts.model_validate_json(path.read_text())
    except OSError as failure:
        raise EvaluationError(f"{path}: {failure.strerror}; python -m trainer evaluator trains one") from failure
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        raise EvaluationError(f"{path}: {'.'.join(map(str, error['loc']))}: {error['msg']}") from failure
