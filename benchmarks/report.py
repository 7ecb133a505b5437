"""Records of benchmarks, with the machine and the models that they were measured on, and verdicts on goals."""

from pathlib import Path
from typing import Any

from pydantic_core import to_json

from benchmarks.machine import describe_machine
from service.contract.manifest import read_manifest
from service.models.folders import model_directories

RESULTS = Path("benchmarks/results")


def write_record(name: str, **figures: Any) -> None:  # noqa: ANN401  (dataclasses and what JSON knows, nested)
    """Write ``benchmarks/results/<name>.json``; infinities and NaN become null."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    models = {name: read_manifest(folder).version for name, folder in model_directories(Path("weights")).items()}
    record = {"machine": describe_machine(), "models": models, **figures}
    path.write_bytes(to_json(record, indent=2, inf_nan_mode="null") + b"\n")


def verdict(met: bool) -> str:
    """Whether a goal was met, as a word."""
    return "met" if met else "MISSED"
