import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.evaluate import metrics


def normal(count: int, dimension: int, seed: int) -> Tensor:
    return torch.randn(count, dimension, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance(dimension: int, seed: int) -> Tensor:
    root = normal(dimension, dimension, seed)
    return root @ root.T / dimension


def test_two_gaussians_on_one_axis_have_the_closed_form() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    first = metrics.Moments(torch.tensor([1.0]).double(), torch.tensor([[4.0]]).double())
    second = metrics.Moments(torch.tensor([4.0]).double(), torch.tensor([[9.0]]).double())
    assert metrics.frechet_distance(first, second) == pytest.approx(9 + 1, abs=1e-12)


def test_gaussians_with_commuting_covariances_have_the_closed_form() -> None:
    """In a common basis the distance is the sum of those of the axes."""
    basis = torch.linalg.qr(normal(6, 6, seed=0)).Q
    scales, others = torch.arange(1.0, 7.0).double(), torch.tensor([3.0, 1, 2, 6, 5, 0.5]).double()
    means = normal(2, 6, seed=1)
    first = metrics.Moments(means[0], basis @ torch.diag(scales**2) @ basis.T)
    second = metrics.Moments(means[1], basis @ torch.diag(others**2) @ basis.T)
    wanted = (means[0] - means[1]).square().sum() + (scales - others).square().sum()
    assert metrics.frechet_distance(first, second) == pytest.approx(float(wanted), rel=1e-9)


def test_any_two_covariances_have_the_trace_of_the_product_s_root() -> None:
    """The textbook form: tr sqrt(S1 S2) is the sum of the roots of the eigenvalues of S1 S2."""
    first, second = covariance(8, seed=2), covariance(8, seed=3)
    roots = torch.linalg.eigvals(first @ second).sqrt().sum().real
    wanted = float(first.trace() + second.trace() - 2 * roots)
    zero = torch.zeros(8).double()
    distance = metrics.frechet_distance(metrics.Moments(zero, first), metrics.Moments(zero, second))
    assert distance == pytest.approx(wanted, rel=1e-9)
    assert metrics.frechet_distance(metrics.Moments(zero, second), metrics.Moments(zero, first)) == pytest.approx(
        wanted
    )


def test_moments_are_those_of_the_sample() -> None:
    features = normal(50, 3, seed=4)
    found = metrics.moments(features.float())
    centred = features.float().double() - found.mean
    torch.testing.assert_close(found.mean, features.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.covariance, centred.T @ centred / 49)


@pytest.mark.parametrize("count", [40, 250])
def test_a_set_has_no_distance_to_itself(count: int) -> None:
    """More dimensions than pictures, and the other way round."""
    found = metrics.moments(normal(count, 64, seed=5))
    assert metrics.frechet_distance(found, found) == pytest.approx(0, abs=1e-6)


def test_the_kernel_distance_is_the_unbiased_mean_over_pairs() -> None:
    first, second = normal(7, 3, seed=6), normal(5, 3, seed=7) + 1

    def kernel(x: Tensor, y: Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    size = 5  # the smaller set's: one block of each
    within = [
        sum(kernel(block[i], block[j]) for i in range(size) for j in range(size) if i != j) / (size * (size - 1))
        for block in (first[:size], second)
    ]
    between = sum(kernel(x, y) for x in first[:size] for y in second) / size**2
    assert metrics.kernel_distance(first, second) == pytest.approx(sum(within) - 2 * between, rel=1e-9)


def test_the_kernel_distance_of_one_distribution_is_zero_on_average() -> None:
    """With 30 pictures a set: the Frechet distance is far above zero there."""
    values = [metrics.kernel_distance(normal(30, 16, seed), normal(30, 16, seed + 1000)) for seed in range(200)]
    mean = sum(values) / len(values)
    error = math.sqrt(sum((value - mean) ** 2 for value in values)) / len(values)
    assert abs(mean) < 3 * error
    assert min(values) < 0 < max(values)
    first, second = metrics.moments(normal(30, 16, 0)), metrics.moments(normal(30, 16, 1000))
    assert metrics.frechet_distance(first, second) > 1


def test_the_kernel_distance_takes_all_blocks_of_the_larger_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "KERNEL_BLOCK", 10)
    near, far, generated = normal(10, 4, seed=8), normal(10, 4, seed=9) + 5, normal(10, 4, seed=10)
    both = metrics.kernel_distance(torch.cat([near, far]), generated)
    assert both == pytest.approx(
        (metrics.kernel_distance(near, generated) + metrics.kernel_distance(far, generated)) / 2
    )


def brute_support(real: Tensor, generated: Tensor) -> metrics.Support:
    def radius(points: Tensor, neighbour: int) -> list[float]:
        return [sorted(float((x - y).norm()) for y in points)[neighbour] for x in points]

    real_3, real_5, generated_3 = radius(real, 3), radius(real, 5), radius(generated, 3)
    away = [[float((x - y).norm()) for y in real] for x in generated]
    rows, columns = range(len(generated)), range(len(real))
    return metrics.Support(
        precision=sum(any(away[j][i] <= real_3[i] for i in columns) for j in rows) / len(rows),
        recall=sum(any(away[j][i] <= generated_3[j] for j in rows) for i in columns) / len(columns),
        density=sum(away[j][i] <= real_5[i] for i in columns for j in rows) / (5 * len(rows)),
        coverage=sum(any(away[j][i] <= real_5[i] for j in rows) for i in columns) / len(columns),
    )


@pytest.mark.parametrize("chunk", [4, 100])
def test_support_is_what_its_definition_says(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(metrics, "CHUNK", chunk)
    real, generated = normal(23, 2, seed=11), 1.3 * normal(17, 2, seed=12) + 0.5
    assert metrics.support(metrics.manifold(real), metrics.manifold(generated)) == brute_support(real, generated)


def test_a_manifold_needs_a_fifth_neighbour() -> None:
    assert len(metrics.manifold(normal(6, 2, seed=13)).fifth) == 6
    with pytest.raises(ValueError, match="5 images are too few: at least 6"):
        metrics.manifold(normal(5, 2, seed=13))


@pytest.mark.parametrize(
    ("change", "field", "least", "most"),
    [
        (lambda x: x[:10].repeat(20, 1), "recall", 0.0, 0.1),  # one in twenty, often repeated
        (lambda x: x[:10].repeat(20, 1), "coverage", 0.0, 0.6),
        (lambda x: 3 * x, "precision", 0.0, 0.4),  # mostly outside
        (lambda x: 0.3 * x, "recall", 0.0, 0.5),  # the core only
        (lambda x: 0.3 * x, "precision", 0.99, 1.0),
        (lambda x: x, "coverage", 0.9, 1.0),
        (lambda x: x, "density", 0.8, 1.2),
    ],
)
def test_support_tells_what_is_wrong(change: Callable[[Tensor], Tensor], field: str, least: float, most: float) -> None:
    real, generated = normal(200, 4, seed=14), change(normal(200, 4, seed=15))
    found = metrics.support(metrics.manifold(real), metrics.manifold(generated))
    assert least <= getattr(found, field) <= most


def test_a_missing_class_has_the_divergence_of_the_others_surplus() -> None:
    real, generated = torch.arange(10).repeat(9), torch.arange(9).repeat(10)
    assert metrics.class_divergence(generated, real, 10) == pytest.approx(math.log(10 / 9))
    assert metrics.class_divergence(real, real, 10) == 0
    assert metrics.class_divergence(real, generated, 10) == pytest.approx(
        0.9 * math.log(0.9) + 0.1 * math.log(0.1 / (0.5 / 90))
    )


def test_copies_of_training_pictures_are_seen() -> None:
    train, held_out, fresh = normal(400, 8, seed=16), normal(300, 8, seed=17), normal(300, 8, seed=18)
    held_out_distances = metrics.nearest_distances(held_out, train)
    honest = metrics.memorisation(metrics.nearest_distances(fresh, train), held_out_distances)
    assert honest.ratio == pytest.approx(1, abs=0.1)
    assert honest.copies < 0.04
    copied = metrics.memorisation(metrics.nearest_distances(train[:300] + 1e-3, train), held_out_distances)
    assert copied.ratio < 0.01
    assert copied.copies == 1


def test_the_nearest_is_found_across_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, points = normal(11, 3, seed=19), normal(13, 3, seed=20)
    monkeypatch.setattr(metrics, "CHUNK", 4)
    wanted = torch.stack([(points - query).norm(dim=1).min() for query in queries])
    torch.testing.assert_close(metrics.nearest_distances(queries, points), wanted)
