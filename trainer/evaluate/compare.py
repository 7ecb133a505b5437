"""A table of all models in a folder, from their manifests."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from service.contract.files import ContractError
from service.contract.manifest import MANIFEST_FILE, Manifest, Score, read_manifest
from trainer.evaluate.curves import Curves
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.measurement import TITLES, Measurement
from trainer.files import write

BEGIN, END = "<!-- written by python -m trainer compare --write -->", "<!-- end -->"
COLUMNS = ("frechet_distance", "kernel_distance", "precision", "recall", "density", "coverage", "class_kl", "copies")
DISTANCE = TITLES["frechet_distance"][0]


def read_manifests(weights: Path) -> tuple[list[Manifest], dict[str, str]]:
    """The manifests of the models in ``weights``, and for each skipped folder the reason.

    Text-to-image models are skipped: they have scores for each group of captions, which no row of a table holds.

    Raises EvaluationError when no model can be read.
    """
    manifests, skipped = [], {}
    for folder in sorted(path.parent for path in weights.glob(f"*/{MANIFEST_FILE}")):
        try:
            manifest = read_manifest(folder)
        except (ContractError, OSError) as failure:
            skipped[folder.name] = str(failure)
            continue
        if manifest.name != folder.name:
            skipped[folder.name] = f"its manifest belongs to {manifest.name}"
        elif manifest.text is not None:
            skipped[folder.name] = "its scores are those of groups of captions: see its card"
        else:
            manifests.append(manifest)
    if not manifests:
        reasons = "".join(f"; {name}: {reason}" for name, reason in skipped.items())
        raise EvaluationError(f"{weights} contains no model: no readable */{MANIFEST_FILE}{reasons}")
    return manifests, skipped


def table(manifests: Sequence[Manifest], curves: Curves | None, baseline: Measurement | None) -> str:
    """A Markdown table with a row per model and sampler and each score with its floor, then notes on the image sets.

    With a baseline, a column has distances relative to it. Models evaluated on other images, another number of them or
    by another evaluator are not comparable with it; a note lists them.
    """
    head = ["model", *(TITLES[name][0] for name in COLUMNS), "parameters", "bytes", "ms per image"]
    if baseline is not None:
        head.insert(1, f"relative to {baseline.model}")
    rows = [row for manifest in manifests for row in _rows(manifest, curves, baseline)]
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, rows)]
    notes = [*_notes(manifests, curves), *(_incomparable(manifests, baseline) if baseline else ())]
    return "\n".join([*lines, "", *notes])


def write_table(path: Path, text: str) -> None:
    """Replace the text between the two markers in ``path``. Raises EvaluationError when they are missing."""
    try:
        document = path.read_text()
    except OSError as failure:
        raise EvaluationError(f"{path}: {failure.strerror}") from failure
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise EvaluationError(f"{path} has no place for the table: a line {BEGIN} before a line {END} is missing")
    write(path, f"{before}{begin}\n\n{text}\n\n{end}{after}".encode())


def _rows(manifest: Manifest, curves: Curves | None, baseline: Measurement | None) -> Iterable[list[str]]:
    samplers = dict.fromkeys(score.sampler for score in manifest.quality) or {None: None}
    for sampler in samplers:
        scores = {score.metric: score for score in manifest.quality if score.sampler == sampler}
        row = [f"{manifest.name} ({sampler})" if sampler else manifest.name]
        if baseline is not None:
            row.append(_relative(scores.get(DISTANCE), baseline))
        row += [_cell(scores.get(TITLES[name][0])) for name in COLUMNS]
        row += [f"{manifest.made_by.parameters:,}", f"{manifest.artifact.size:,}", _time(manifest, sampler, curves)]
        yield row


def _cell(score: Score | None) -> str:
    if score is None:
        return "-"
    return f"{score.value:.3g}" if score.floor is None else f"{score.value:.3g} ({score.floor:.3g})"


def _relative(score: Score | None, baseline: Measurement) -> str:
    if score is None or not _comparable(score, baseline):
        return "-"
    return f"{score.value / baseline.scores['frechet_distance']:.2f}"


def _comparable(score: Score, baseline: Measurement) -> bool:
    return (score.reference, score.samples) == (baseline.compared_with, baseline.samples)


def _incomparable(manifests: Sequence[Manifest], baseline: Measurement) -> Iterator[str]:
    other = [each.name for each in manifests if any(not _comparable(score, baseline) for score in each.quality)]
    if other:
        yield (
            f"Not comparable with {baseline.model}: {', '.join(other)}. {baseline.model} was evaluated on "
            f"{baseline.samples:,} images against {baseline.compared_with}."
        )


def _time(manifest: Manifest, sampler: str | None, curves: Curves | None) -> str:
    points = curves.points if curves is not None else ()
    times = (
        point.milliseconds
        for point in points
        if (point.model, point.version, point.sampler) == (manifest.name, manifest.version, sampler)
    )
    return next((f"{value:.3g}" for value in times), "-")


def _notes(manifests: Sequence[Manifest], curves: Curves | None) -> list[str]:
    sets: dict[tuple[int, str], dict[str, None]] = {}
    for manifest in manifests:
        for score in manifest.quality:
            sets.setdefault((score.samples, score.reference), {})[manifest.name] = None
    notes = []
    for (samples, reference), names in sets.items():
        of = f"{', '.join(names)}: " if len(sets) > 1 else ""
        notes.append(f"{of}{samples:,} images against {reference}; in brackets, real images.")
    if len(sets) > 1:
        notes.append("Scores against different images or with different numbers of images are not comparable.")
    if curves is not None:
        notes.append(f"Time in batches of 16 on one thread: {curves.device}.")
    return notes or ["No model has scores yet: python -m trainer evaluate weights/NAME --write."]


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
