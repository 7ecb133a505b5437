"""Quality against solver steps and time: measured once and stored as JSON, from which tables and plots are made."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from service.sampling.schedules import max_steps
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.pictures import Sampler, make_sampler
from trainer.evaluate.quality import Reference, evaluate_parts
from trainer.evaluate.subject import Subject
from trainer.files import write
from trainer.generate import NotFinite, generate
from trainer.models.parts import Parts

FILE_NAME = "quality.json"
STEPS = (1, 2, 4, 5, 10, 20, 50)
TIMED_BATCH = 16
TIMED_ROUNDS = 5

#: A model, its version and a sampler.
Key = tuple[str, str, str | None]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Point(_Record):
    """One model with one sampler: ``milliseconds`` per image in batches of 16 on one thread, ``steps`` forward passes.

    ``default`` marks the default sampler of the model.
    """

    model: str
    version: str
    sampler: str | None
    steps: int
    default: bool
    frechet_distance: float
    milliseconds: float

    @property
    def key(self) -> Key:
        """The model, its version and the sampler: equal keys of comparable curves have equal distances."""
        return self.model, self.version, self.sampler


class Curves(_Record):
    """All points of one measurement; ``floor`` is the distance of ``samples`` real training images."""

    reference: str
    evaluator: str
    samples: int
    device: str
    floor: float
    points: tuple[Point, ...]


#: Called with the name of a model that could not be measured and the reason.
Skip = Callable[[str, str], None]


def measure(
    subjects: Sequence[Subject], reference: Reference, device: str, skip: Skip, known: Curves | None = None
) -> Iterator[Curves]:
    """Measure every model at several step counts, or once if it has none; yields a result after each model.

    Distances in ``known`` are reused for equal weights if they are comparable; times are measured again. Each result
    contains the known points of the models still to come, so that an interruption loses none.
    """
    empty = Curves(
        reference=reference.name,
        evaluator=reference.evaluator.facts.version,
        samples=reference.samples,
        device=device,
        floor=reference.floor.frechet_distance,
        points=(),
    )
    comparable = known is not None and known.model_copy(update={"points": ()}) == empty
    before = known.points if known is not None and comparable else ()
    distances = {point.key: point.frechet_distance for point in before}
    points: list[Point] = []
    for index, subject in enumerate(subjects):
        try:
            points += list(_points(subject, reference, distances))
        except (EvaluationError, NotFinite) as failure:
            skip(subject.name, str(failure))
        to_come = {later.name for later in subjects[index + 1 :]}
        kept = (point for point in before if point.model in to_come)
        yield empty.model_copy(update={"points": (*points, *kept)})


def write_json(path: Path, curves: Curves) -> None:
    """Write the points for later tables and plots."""
    write(path, curves.model_dump_json(indent=2).encode() + b"\n")


def read_json(path: Path) -> Curves:
    """Read a file of ``write_json``. Raises EvaluationError when it is missing or invalid."""
    try:
        return Curves.model_validate_json(path.read_text())
    except (OSError, UnicodeDecodeError, ValidationError) as failure:
        reason = str(failure).splitlines()[0]
        raise EvaluationError(f"{path} cannot be read: {reason}; --measure writes it again") from failure


def milliseconds(parts: Parts, sampler: Sampler, device: torch.device) -> float:
    """The time per image in batches of 16 on one thread: the median of five batches after a warm-up."""
    label = (torch.arange(TIMED_BATCH) % max(1, parts.classes)).to(device)
    seconds = []
    with one_thread():
        for _ in range(TIMED_ROUNDS + 1):
            started = time.perf_counter()
            generate(parts, label, range(TIMED_BATCH), sampler.plan, guidance_scale=sampler.guidance_scale).cpu()
            seconds.append(time.perf_counter() - started)
    return 1000 * statistics.median(seconds[1:]) / TIMED_BATCH


def _points(subject: Subject, reference: Reference, distances: Mapping[Key, float]) -> Iterator[Point]:
    diffusion, version = subject.parts.diffusion, subject.version
    steps: set[int] = {1}
    if diffusion is not None:
        most = max_steps(diffusion.noise_schedule, diffusion.t_max)
        steps = {count for count in (*STEPS, diffusion.defaults.steps) if count <= most}
    for count in sorted(steps):
        sampler = make_sampler(subject.parts, steps=count)
        distance = distances.get((subject.name, version, sampler.name))
        if distance is None:
            distance = evaluate_parts(subject.parts, reference, reference.samples, sampler).frechet_distance
        yield Point(
            model=subject.name,
            version=version,
            sampler=sampler.name,
            steps=count,
            default=diffusion is None or count == diffusion.defaults.steps,
            frechet_distance=distance,
            milliseconds=milliseconds(subject.parts, sampler, reference.evaluator.device),
        )


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes on one thread, as in all times of curves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
