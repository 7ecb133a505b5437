"""The towers on disk, beside their tokenizer and the facts of their training."""

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

FACTS_FILE = "judge.json"
BATCH_SIZE = 250


class JudgeFacts(BaseModel):
    """What judge.json says: ``recall`` is R@1 among 100 captions on real pictures, by group: nobody's can be higher."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, StringConstraints(pattern=r"^judge-[0-9a-f]{8}\.pt$")]
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


class Seen(NamedTuple):
    """What the judge makes of pictures: features (count, dimension) float64, embeddings (count, dimension)."""

    features: Tensor
    embeddings: Tensor


class Judge:
    """Trained towers: what they see in pictures, and how they read captions."""

    def __init__(self, towers: nn.Module, tokenizer: Tokenizer, device: torch.device) -> None:
        towers.eval().to(device)
        self.picture, self.caption = (dict(towers.named_children())[name] for name in ("picture", "caption"))
        self.tokenizer, self.device = tokenizer, device

    @torch.inference_mode()
    def see(self, pictures: Tensor) -> Seen:
        """Of uint8 pictures (count, channel, height, width)."""
        batches = torch.split(pictures, BATCH_SIZE)
        seen = [self.picture(to_unit_range(batch.to(self.device))) for batch in batches]
        return Seen(torch.cat([features for features, _ in seen]).double(), torch.cat([each for _, each in seen]))

    @torch.inference_mode()
    def read(self, captions: Sequence[str]) -> Tensor:
        """Embeddings (count, dimension) of captions."""
        tokens, mask = tokenize(self.tokenizer, captions, TOKENS)
        embeddings: Tensor = self.caption(tokens.to(self.device), mask.to(self.device))
        return embeddings


def write_judge(folder: Path, towers: Towers, tokenizer: Tokenizer, **facts: object) -> JudgeFacts:
    """Write judge-<sha8>.pt, tokenizer-<sha8>.json and then judge.json; ``facts`` has the other fields."""
    payload = archive(towers.cpu().to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
    words = tokenizer.to_str().encode()
    sha256, words_sha256 = hashlib.sha256(payload).hexdigest(), hashlib.sha256(words).hexdigest()
    whole = JudgeFacts.model_validate(
        {
            "file": f"judge-{sha256[:8]}.pt",
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


def load_judge(folder: Path, device: torch.device) -> tuple[JudgeFacts, Judge]:
    """The judge in ``folder``. Raises EvaluationError when it is missing, damaged or altered."""
    try:
        facts = JudgeFacts.model_validate_json((folder / FACTS_FILE).read_text())
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
    return facts, Judge(towers, Tokenizer.from_str(words.decode()), device)


def _verified(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as failure:
        raise EvaluationError(f"{path}: {failure.strerror}") from failure
    if hashlib.sha256(content).hexdigest() != sha256:
        raise EvaluationError(f"{path}: its SHA-256 is not {sha256}, so its scores would not be comparable")
    return content
