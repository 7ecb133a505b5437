"""Each fault that a generator can have is caught by the metric that is there to catch it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainer.conftest import MakeRun
from trainer.data import ImageData, choose
from trainer.evaluate.errors import EvaluationError
from trainer.evaluate.evaluator import Evaluator
from trainer.evaluate.pictures import make_sampler
from trainer.evaluate.quality import (
    Quality,
    Reference,
    against_test,
    against_training,
    evaluate_parts,
    evaluate_pictures,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="session")
def others(train: ImageData) -> ImageData:
    """The 600 real pictures that are not in the reference."""
    rest = choose(len(train.images), len(train.images))[600:]
    return dataclasses.replace(train, images=train.images[rest], labels=train.labels[rest])


def first(count: int, data: ImageData) -> ImageData:
    return dataclasses.replace(data, images=data.images[:count], labels=data.labels[:count])


def blurred(images: Tensor) -> Tensor:
    return F.avg_pool2d(images.float(), 3, stride=1, padding=1).round().to(torch.uint8)


def noisy(images: Tensor) -> Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 25 * noise).clamp(0, 255).round().to(torch.uint8)


def test_the_floor_is_the_quality_of_the_other_real_pictures(reference: Reference, others: ImageData) -> None:
    assert evaluate_pictures(others.images, reference) == reference.floor
    assert reference.name == "600 training images of fashion-mnist"
    assert reference.floor.coverage > 0.9
    assert reference.floor.frechet_distance > 0
    assert abs(reference.floor.kernel_distance) < 0.01
    assert reference.floor.scores()["class_kl"] < 0.05
    assert set(reference.floor.scores()) == {field.name for field in dataclasses.fields(Quality)} - {
        "nearest_ratio",
        "copies",
    }


def test_the_reference_itself_is_perfect(reference: Reference) -> None:
    own = evaluate_pictures(reference.pictures, reference)
    assert own.frechet_distance == pytest.approx(0, abs=1e-6)
    assert (own.precision, own.recall, own.coverage, own.class_kl) == (1, 1, 1, 0)


@pytest.mark.parametrize("fault", [blurred, noisy])
def test_blur_and_noise_are_far_in_feature_space(
    reference: Reference, others: ImageData, fault: Callable[[Tensor], Tensor]
) -> None:
    spoilt, floor = evaluate_pictures(fault(others.images), reference), reference.floor
    assert spoilt.frechet_distance > 2 * floor.frechet_distance
    assert spoilt.kernel_distance > 5 * abs(floor.kernel_distance)
    assert spoilt.precision < floor.precision


def test_a_dropped_class_is_seen_by_histogram_recall_and_coverage(reference: Reference, others: ImageData) -> None:
    kept = others.labels != 8  # bags
    partial, floor = evaluate_pictures(others.images[kept], reference), reference.floor
    assert partial.scores()["class_kl"] > floor.scores()["class_kl"] + 0.05
    assert partial.recall < floor.recall - 0.05
    assert partial.coverage < floor.coverage - 0.05
    assert partial.precision > floor.precision - 0.02


def test_few_pictures_often_repeated_are_seen_by_recall_and_coverage(reference: Reference, others: ImageData) -> None:
    repeated, floor = evaluate_pictures(others.images[:60].repeat(10, 1, 1, 1), reference), reference.floor
    assert repeated.recall < 0.1 * floor.recall
    assert repeated.coverage < 0.6 * floor.coverage
    assert repeated.precision > floor.precision - 0.1


def test_copies_of_the_training_set_are_seen(evaluator: Evaluator, train: ImageData, test_split: ImageData) -> None:
    train, test_split = first(600, train), first(300, test_split)
    reference = against_test(evaluator, test_split, train, 300)
    assert reference.name == "300 test images of fashion-mnist"
    assert (reference.floor.nearest_ratio, reference.floor.copies) == (1.0, 0.01)
    copied = evaluate_pictures(train.images[:200], reference)
    assert copied.copies == 1
    assert copied.nearest_ratio is not None
    assert copied.nearest_ratio < 0.01
    held_out = evaluate_pictures(test_split.images, reference)
    assert held_out.nearest_ratio == pytest.approx(1)
    assert held_out.copies == pytest.approx(0.01, abs=0.005)


def test_the_floor_is_of_as_many_pictures_as_will_be_drawn(evaluator: Evaluator, train: ImageData) -> None:
    """Fewer pictures are farther away, real ones too."""
    small = against_training(evaluator, train, 150)
    order = choose(len(train.images), len(train.images))
    assert small.floor == evaluate_pictures(train.images[order[600:750]], small)


def test_the_floor_of_few_test_pictures_is_of_as_many_pictures_as_are_drawn(
    evaluator: Evaluator, train: ImageData, test_split: ImageData
) -> None:
    """30 real pictures as the floor of 270 drawn ones made a good model look better than real pictures."""
    reference = against_test(evaluator, first(30, test_split), first(270, train), 10_000)
    assert reference.samples == 270
    assert reference.name == "30 test images of fashion-mnist"
    others = dataclasses.replace(train, images=train.images[300:570])
    perfect = evaluate_pictures(others.images, reference)
    assert perfect.frechet_distance == pytest.approx(reference.floor.frechet_distance, rel=0.25)
    fewer = evaluate_pictures(train.images[:30], reference)
    assert fewer.frechet_distance > 1.25 * perfect.frechet_distance
    assert "270 images against 30 test images of fashion-mnist: below 1,000" in reference.warning


def test_halves_of_few_training_pictures_are_disjoint_and_alike(evaluator: Evaluator, train: ImageData) -> None:
    reference = against_training(evaluator, first(270, train), 10_000)
    assert (reference.samples, len(reference.pictures)) == (135, 135)
    order = choose(270, 270)
    assert reference.floor == evaluate_pictures(train.images[order[135:]], reference)
    assert torch.equal(reference.pictures, train.images[order[:135]])


def test_enough_pictures_need_no_warning(reference: Reference) -> None:
    many = dataclasses.replace(reference, samples=1000, pictures=reference.pictures.repeat(2, 1, 1, 1))
    assert many.warning == ""


def test_too_few_real_pictures_are_refused_with_what_would_do(
    evaluator: Evaluator, train: ImageData, test_split: ImageData
) -> None:
    with pytest.raises(EvaluationError, match=r"19 test images and 100 others.*20 of each.*; --against train"):
        against_test(evaluator, first(19, test_split), train, 100)
    with pytest.raises(EvaluationError, match=r"19 training images and 19 others are too few"):
        against_training(evaluator, first(38, train), 100)


def test_without_classes_there_is_everything_but_the_histogram(evaluator: Evaluator, train: ImageData) -> None:
    facts = evaluator.facts.model_copy(update={"class_names": ()})
    reference = against_training(Evaluator(facts, evaluator.network, CPU), train.without_classes(), 100)
    scores = evaluate_pictures(train.images[:50], reference).scores()
    assert "class_kl" not in scores
    assert {"frechet_distance", "kernel_distance", "coverage"} <= set(scores)
    with pytest.raises(EvaluationError, match="was trained on images without classes"):
        against_training(reference.evaluator, train, 100)


def test_a_model_is_scored_on_its_pictures(make_run: MakeRun, reference: Reference, tmp_path: Path) -> None:
    run = make_run("vae", tmp_path)
    parts = run.objective.parts(run.ema.module)
    sampler = make_sampler(parts, "dpmpp_2m", 20, 1.0)
    random = torch.get_rng_state()
    quality = evaluate_parts(parts, reference, 120, sampler)
    assert quality == evaluate_parts(parts, reference, 120, sampler)
    assert quality != evaluate_parts(parts, reference, 120, sampler, first_seed=1000)
    assert quality.frechet_distance > 10 * reference.floor.frechet_distance  # it was never trained
    assert torch.equal(torch.get_rng_state(), random)  # a run that is scored on the way goes on as if it were not


def test_too_few_pictures_are_refused(reference: Reference) -> None:
    with pytest.raises(EvaluationError, match="19 images are too few: at least 20"):
        evaluate_pictures(reference.pictures[:19], reference)


def test_other_data_than_the_evaluator_s_are_refused(evaluator: Evaluator, train: ImageData) -> None:
    other = dataclasses.replace(train, facts=dataclasses.replace(train.facts, name="mnist"))
    with pytest.raises(EvaluationError, match="was trained on fashion-mnist, the reference images are of mnist"):
        against_training(evaluator, other, 100)
