"""Files of measurements: written whole or not at all, and what goes wrong told in a line."""

from pathlib import Path

from service.contract.files import replacing
from trainer.evaluate.errors import EvaluationError


def write(path: Path, payload: bytes) -> None:
    """Replace ``path``, making its folder. Raises EvaluationError when that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, payload):
            pass
    except OSError as failure:
        raise EvaluationError(f"{path} cannot be written: {failure.strerror}") from failure
