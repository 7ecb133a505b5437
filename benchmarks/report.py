"""What a benchmark leaves: its record beside machine and models, and its goals with whether they were met."""

from pathlib import Path
from typing import Any

from pydantic_core import to_json

from benchmarks.machine import describe_machine
from service.contract.manifest import read_manifest
from service.models.registry import model_directories

RESULTS = Path("benchmarks/results")


def write_record(name: str, **figures: Any) -> None:  # noqa: ANN401  (dataclasses and what JSON knows, nested)
    """Write ``benchmarks/results/<name>.json``; what is infinite or not a number becomes null."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    models = {name: read_manifest(folder).version for name, folder in model_directories(Path("weights")).items()}
    record = {"machine": describe_machine(), "models": models, **figures}
    (RESULTS / f"{name}.json").write_bytes(to_json(record, indent=2, inf_nan_mode="null") + b"\n")


def verdict(met: bool) -> str:
    """How a goal fared."""
    return "met" if met else "MISSED"
