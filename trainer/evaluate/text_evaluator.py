"""The text evaluator on disk: its networks, tokenizer and the facts of its training."""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError
from tokenizers import Tokenizer
from torch import Tensor, nn

from trainer.config import DatasetName
from trainer.data import to_unit_range
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.towers import TOKENS, Towers
from trainer.export import archive
from trainer.files import write
from trainer.text.tokenizer import tokenize

FACTS_FILE = "text-evaluator.json"
BATCH_SIZE = 250


class TextEvaluatorFacts(BaseModel):
    """The content of text-evaluator.json: ``recall`` is R@1 among 100 captions on real images, by group."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^text-evaluator-[0-9a-f]{8}\.pt$")]
    sha256: str
    tokenizer: Annotated[str, StringConstraints(pattern=r"^tokenizer-[0-9a-f]{8}\.json$")]
    tokenizer_sha256: str
    dataset: DatasetName
    image_shape: tuple[int, int, int]
    recall: dict[str, float]
    command: str
    epochs: int
    seconds: float
    device: str
    parameters: int
    torch_version: str


class ImageEmbeddings(NamedTuple):
    """Of images: features (count, dimension) float64, embeddings (count, dimension)."""

    features: Tensor
    embeddings: Tensor


class TextEvaluator:
    """Trained networks that return features and embeddings of images, and embeddings of captions."""

    def __init__(self, towers: nn.Module, tokenizer: Tokenizer, device: torch.device) -> None:
        towers.eval().to(device)
        self.picture, self.caption = (dict(towers.named_children())[name] for name in ("picture", "caption"))
        self.tokenizer, self.device = tokenizer, device

    @torch.inference_mode()
    def embed_images(self, pictures: Tensor) -> ImageEmbeddings:
        """Features and embeddings of uint8 images (count, channel, height, width)."""
        batches = torch.split(pictures, BATCH_SIZE)
        seen = [self.picture(to_unit_range(batch.to(self.device))) for batch in batches]
        return ImageEmbeddings(
            torch.cat([features for features, _ in seen]).double(), torch.cat([each for _, each in seen])
        )

    @torch.inference_mode()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (count, dimension) of captions."""
        tokens, mask = tokenize(self.tokenizer, captions, TOKENS)
        embeddings: Tensor = self.caption(tokens.to(self.device), mask.to(self.device))
        return embeddings


def write_text_evaluator(folder: Path, towers: Towers, tokenizer: Tokenizer, **facts: object) -> TextEvaluatorFacts:
    """Write text-evaluator-<sha8>.pt, tokenizer-<sha8>.json, then text-evaluator.json with the other ``facts``."""
    payload = archive(towers.cpu().to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    words = tokenizer.to_str().encode()
    sha256, words_sha256 = hashlib.sha256(payload).hexdigest(), hashlib.sha256(words).hexdigest()
    whole = TextEvaluatorFacts.model_validate(
        {
            "file": f"text-evaluator-{sha256[:8]}.pt",
            "sha256": sha256,
            "tokenizer": f"tokenizer-{words_sha256[:8]}.json",
            "tokenizer_sha256": words_sha256,
            "parameters": sum(weight.numel() for weight in towers.parameters()),
            "torch_version": torch.__version__.split("+")[0],
            **facts,
        }
    )
    write(folder / whole.file, payload)
    write(folder / whole.tokenizer, words)
    write(folder / FACTS_FILE, whole.model_dump_json(indent=2).encode() + b"\n")
    return whole


def load_text_evaluator(folder: Path, device: torch.device) -> tuple[TextEvaluatorFacts, TextEvaluator]:
    """The evaluator in ``folder``. Raises EvaluationError when it is missing, damaged or altered."""
    try:
        facts = TextEvaluatorFacts.model_validate_json((folder / FACTS_FILE).read_text())
    except OSError as failure:
        raise EvaluationError(f"{folder / FACTS_FILE}: {failure.strerror}") from failure
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        raise EvaluationError(f"{folder / FACTS_FILE}: {'.'.join(map(str, error['loc']))}: {error['msg']}") from failure
    payload = _verified(folder / facts.file, facts.sha256)
    words = _verified(folder / facts.tokenizer, facts.tokenizer_sha256)
    try:
        towers = torch.jit.load(io.BytesIO(payload), map_location="cpu")  # type: ignore[no-untyped-call]
    except RuntimeError as failure:
        raise EvaluationError(f"{folder / facts.file} is not TorchScript") from failure
    return facts, TextEvaluator(towers, Tokenizer.from_str(words.decode()), device)


def _verified(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise EvaluationError(f"{path}: {failure.strerror}") from failure
    if hashlib.sha256(content).hexdigest() != sha256:
        raise EvaluationError(f"{path}: its SHA-256 is not {sha256}, so its scores are not comparable")
    return content
