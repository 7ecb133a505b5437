"""One measurement and its forms: a JSON file, scores in the manifest and the card, a table on the terminal."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from service.contract.manifest import MANIFEST_FILE, Score, read_manifest, write_manifest
from service.contract.signature import signature_of
from trainer import card
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.quality import Quality
from trainer.files import write

#: The displayed name of each score, and the better direction.
TITLES = {
    "frechet_distance": ("Frechet distance", "lower"),
    "kernel_distance": ("kernel distance (KID)", "lower"),
    "precision": ("precision", "higher"),
    "recall": ("recall", "higher"),
    "density": ("density", "higher"),
    "coverage": ("coverage", "higher"),
    "class_kl": ("class histogram KL", "lower"),
    "nearest_ratio": ("distance to training set / that of test images", "about 1"),
    "copies": ("share nearer to the training set than 99 % of test images", "about 0.01"),
    "fid": ("FID", "lower"),
}


class Measurement(BaseModel):
    """The scores of ``model`` on ``samples`` images with seeds from ``first_seed``, and the floor of each.

    ``evaluator`` is the version of the classifier: scores of different versions are not comparable.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str
    reference: str
    evaluator: str
    samples: Annotated[int, Field(gt=0)]
    first_seed: int
    sampler: str | None
    scores: dict[str, float]
    floor: dict[str, float]

    @property
    def compared_with(self) -> str:
        """The reference and the evaluator as text: scores with equal text are comparable."""
        return f"{self.reference}, evaluator {self.evaluator}"


def table(measurement: Measurement) -> str:
    """The scores as a table for the terminal, with those of real images."""
    sampler = f", {measurement.sampler}" if measurement.sampler else ""
    head = f"{measurement.model}: {measurement.samples:,} images{sampler}"
    lines = [
        f"{head}, against {measurement.compared_with}",
        f"real: {measurement.samples:,} other real images against the same",
        f"{'':60}{'model':>12}{'real':>12}  better",
    ]
    for name, value in measurement.scores.items():
        title, better = TITLES[name]
        floor = f"{measurement.floor[name]:12.4g}" if name in measurement.floor else f"{'-':>12}"
        lines.append(f"{title:60}{value:12.4g}{floor}  {better}")
    return "\n".join(lines)


def write_json(path: Path, measurement: Measurement) -> None:
    """Write a measurement, for instance a baseline for ``python -m trainer compare``."""
    write(path, measurement.model_dump_json(indent=2).encode() + b"\n")


def read_json(path: Path) -> Measurement:
    """Read a file of ``write_json``. Raises EvaluationError when it is missing or invalid."""
    try:
        return Measurement.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError) as failure:
        raise EvaluationError(f"{path} cannot be read: {failure}") from failure
    except ValidationError as failure:
        error = failure.errors(include_url=False)[0]
        field = ".".join(map(str, error["loc"]))
        reason = f"{field}: {error['msg']}"
        raise EvaluationError(f"{path} is not a measurement of python -m trainer evaluate: {reason}") from failure


#: What to say if ``publish`` returns True.
UNSIGNED = (
    "the new manifest is not signed: sign it with minisign -Sm manifest.json, or export the run again with --sign"
)


def publish(folder: Path, fresh: tuple[Score, ...]) -> bool:
    """Write the scores ``fresh`` of one sampler to the card and then to the manifest of the model in ``folder``.

    They replace earlier scores of the same sampler and all scores against other references. Returns whether the
    manifest was signed, and must be signed again. Raises EvaluationError when the card has no Quality section,
    ContractError when the manifest cannot be read.
    """
    manifest = read_manifest(folder)
    references, sampler = {score.reference for score in fresh}, fresh[0].sampler
    kept = (score for score in manifest.quality if score.reference in references and score.sampler != sampler)
    quality = (*fresh, *kept)
    path = folder / "card.md"
    try:
        text = card.with_quality(path.read_text(), quality)
    except (OSError, ValueError) as failure:
        raise EvaluationError(f"{path}: {failure}; export the run again") from failure
    write(path, text.encode())
    signed = signature_of(folder / MANIFEST_FILE).exists()
    write_manifest(folder, manifest.model_copy(update={"quality": quality}))
    return signed


def scores(measurement: Measurement) -> tuple[Score, ...]:
    """The scores in the form of the manifest."""
    return tuple(
        Score(
            metric=TITLES[name][0],
            value=value,
            samples=measurement.samples,
            reference=measurement.compared_with,
            floor=measurement.floor.get(name),
            sampler=measurement.sampler,
        )
        for name, value in measurement.scores.items()
    )


def measurement_of(quality: Quality, floor: Quality, **facts: object) -> Measurement:
    """A Measurement of ``quality`` and its ``floor``; ``facts`` are the other fields."""
    return Measurement.model_validate({"scores": quality.scores(), "floor": floor.scores(), **facts})
