from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.trainer.conftest import MakeRun
from trainer.evaluate import curves
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.plots import draw
from trainer.evaluate.quality import Reference
from trainer.evaluate.subject import Subject, load_artefact
from trainer.export import export
from trainer.models.parts import Parts


def with_default_steps(parts: Parts, steps: int) -> Parts:
    if parts.diffusion is None:
        return parts
    defaults = parts.diffusion.defaults.model_copy(update={"steps": steps})
    return replace(parts, diffusion=replace(parts.diffusion, defaults=defaults))


@pytest.fixture
def subjects(make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Subject]:
    monkeypatch.setattr(curves, "STEPS", (1, 2, 5000))
    monkeypatch.setattr(curves, "TIMED_ROUNDS", 1)
    found = []
    for family in ("vae", "ddpm"):
        run = make_run(family, tmp_path / "runs" / family, epochs=1)
        run.fit()
        export(run.folder, tmp_path / "weights" / family, run.data)
        subject = load_artefact(tmp_path / "weights" / family, torch.device("cpu"))
        found.append(replace(subject, parts=with_default_steps(subject.parts, 6)))
    return found


@pytest.fixture
def few(reference: Reference) -> Reference:
    """100 pictures a point."""
    return replace(reference, samples=100)


def never(name: str, reason: str) -> None:
    pytest.fail(f"{name} was left out: {reason}")


def last(results: Iterable[curves.Curves]) -> curves.Curves:
    return list(results)[-1]


@pytest.fixture
def measured(subjects: list[Subject], few: Reference) -> curves.Curves:
    return last(curves.measure(subjects, few, "CPU, 1 thread", never))


def test_each_model_is_measured_at_its_steps_and_drawn(measured: curves.Curves, tmp_path: Path) -> None:
    found = [(point.model, point.steps, point.sampler, point.default) for point in measured.points]
    assert found == [
        ("vae", 1, None, True),
        ("ddpm", 1, "dpmpp_2m 1 step", False),
        ("ddpm", 2, "dpmpp_2m 2 steps", False),
        ("ddpm", 6, "dpmpp_2m 6 steps", True),  # its default; 5,000 are more than it has
    ]
    assert all(point.milliseconds > 0 and point.frechet_distance > measured.floor for point in measured.points)
    times = [point.milliseconds for point in measured.points]
    assert times[3] > times[1]

    path = tmp_path / "docs" / curves.FILE_NAME
    curves.write_json(path, measured)
    assert curves.read_json(path) == measured
    pictures = draw(curves.read_json(path), tmp_path / "pictures")
    assert [picture.name for picture in pictures] == ["quality-steps.png", "quality-milliseconds.png"]
    first = pictures[0].read_bytes()
    with Image.open(pictures[0]) as image:
        assert image.format == "PNG"
        assert image.size == (840, 504)
    draw(measured, tmp_path / "pictures")
    assert pictures[0].read_bytes() == first


def test_only_weights_that_were_not_measured_alike_are_measured_again(
    subjects: list[Subject], few: Reference, measured: curves.Curves
) -> None:
    vae, *ddpm = [point.model_copy(update={"frechet_distance": -1.0, "milliseconds": 0.0}) for point in measured.points]
    known = measured.model_copy(update={"points": (vae.model_copy(update={"version": "another0"}), *ddpm)})
    again = last(curves.measure(subjects, few, "CPU, 1 thread", never, known))
    assert [point.frechet_distance for point in again.points] == [measured.points[0].frechet_distance, -1, -1, -1]
    assert all(point.milliseconds > 0 for point in again.points)

    of_fewer = known.model_copy(update={"samples": 99})
    anew = last(curves.measure(subjects, few, "CPU, 1 thread", never, of_fewer))
    assert [point.frechet_distance for point in anew.points] == [point.frechet_distance for point in measured.points]


def test_an_interruption_keeps_what_is_measured_and_what_was_known(
    subjects: list[Subject], few: Reference, measured: curves.Curves
) -> None:
    known = measured.model_copy(
        update={"points": tuple(point.model_copy(update={"frechet_distance": -1.0}) for point in measured.points[1:])}
    )
    first = next(curves.measure(subjects, few, "CPU, 1 thread", never, known))
    assert [(point.model, point.frechet_distance == -1) for point in first.points] == [
        ("vae", False),
        *[("ddpm", True)] * 3,
    ]


def test_a_model_that_cannot_be_measured_is_left_out_and_named(subjects: list[Subject], few: Reference) -> None:
    vae = subjects[0]
    grey = replace(vae, name="huge", parts=replace(vae.parts, image_shape=(1, 32, 32)))
    skipped: dict[str, str] = {}
    found = last(curves.measure([grey, vae], few, "CPU, 1 thread", skipped.__setitem__))
    assert [point.model for point in found.points] == ["vae"]
    assert list(skipped) == ["huge"]
    assert "the model's images are 1 x 32 x 32" in skipped["huge"]


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / curves.FILE_NAME
    path.write_text("{}")
    with pytest.raises(EvaluationError, match=r"quality\.json cannot be read: .*; --measure writes it again"):
        curves.read_json(path)
