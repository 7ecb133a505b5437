"""Metrics on sets of feature vectors: pure functions on (count, dimension) tensors.

Pairwise distances are computed in chunks of rows: those of 10,000 images to 60,000 would not fit in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

#: Rows per chunk: 10,000 distances for each fit in the CPU's cache.
CHUNK = 100
#: Images per block of the kernel distance, which is the mean over blocks.
KERNEL_BLOCK = 1000
#: The number of the neighbour whose distance is the radius of an image, as in the papers of the metrics.
PRECISION_NEIGHBOUR = 3
COVERAGE_NEIGHBOUR = 5
#: The quantile of held-out distances below which an image counts as a copy of a training image.
NEAR_SHARE = 0.01


@dataclass(frozen=True)
class Moments:
    """Mean (dimension,) and covariance (dimension, dimension) of features, float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (count, dimension); count is at least 2."""
    return Moments(features.double().mean(0), features.double().T.cov())


def frechet_distance(first: Moments, second: Moments) -> float:
    """Squared 2-Wasserstein distance of the Gaussians with these moments (Dowson & Landau 1982).

    The FID is this formula on Inception features (Heusel et al. 2017). The trace of the matrix square root is computed
    from a symmetric matrix with the same eigenvalues.
    """
    shift = (first.mean - second.mean).square().sum()
    root = _symmetric_root(first.covariance)
    cross = torch.linalg.eigvalsh(root @ second.covariance @ root).clamp(min=0).sqrt().sum()
    distance = shift + first.covariance.trace() + second.covariance.trace() - 2 * cross
    return max(0.0, float(distance))


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """The KID: unbiased squared maximum mean discrepancy under the kernel (x . y / dimension + 1)^3.

    Binkowski et al. 2018, "Demystifying MMD GANs". The mean over disjoint blocks of 1,000 rows in random order. For two
    samples of one distribution its expectation is 0 at any sample size.
    """
    size = min(KERNEL_BLOCK, len(first), len(second))
    blocks, others = _blocks(first, size), _blocks(second, size)
    pairs = max(len(blocks), len(others))
    total = sum(_block_distance(blocks[i % len(blocks)], others[i % len(others)]) for i in range(pairs))
    return total / pairs


@dataclass(frozen=True)
class Manifold:
    """Features (count, dimension) and the distance of each to its third and fifth neighbour among them, (count,)."""

    features: Tensor
    third: Tensor
    fifth: Tensor


def manifold(features: Tensor) -> Manifold:
    """The manifold of features (count, dimension). Raises ValueError for fewer than six."""
    if len(features) <= COVERAGE_NEIGHBOUR:
        raise ValueError(f"{len(features)} images are too few: at least {COVERAGE_NEIGHBOUR + 1} are needed")
    nearest = torch.cat([_smallest(rows, COVERAGE_NEIGHBOUR + 1) for _, rows in _distances(features, features)])
    # Column 0 is the image itself or an equal one.
    return Manifold(features, nearest[:, PRECISION_NEIGHBOUR], nearest[:, COVERAGE_NEIGHBOUR])


@dataclass(frozen=True)
class Support:
    """The overlap of two sets. All fields are in [0, 1] except ``density``, about 1 for equal distributions.

    ``precision``, ``recall``: the fraction of generated (real) images inside the balls around real (generated) ones
    (Kynkäänniemi et al. 2019). ``density``: the mean number of real balls that contain a generated image, divided by 5;
    ``coverage``: the fraction of real balls that contain a generated image (Naeem et al. 2020).
    """

    precision: float
    recall: float
    density: float
    coverage: float


def support(real: Manifold, generated: Manifold) -> Support:
    """All four metrics of two sets in one pass over their distances."""
    inside, dense = 0, 0
    recalled = torch.zeros(len(real.features), dtype=torch.bool, device=real.features.device)
    nearest = torch.full_like(real.fifth, torch.inf)
    for first, distances in _distances(generated.features, real.features):
        radius = generated.third[first : first + len(distances), None]
        inside += int(torch.count_nonzero((distances <= real.third).any(1)))
        dense += int(torch.count_nonzero(distances <= real.fifth))
        recalled |= (distances <= radius).any(0)
        nearest = torch.minimum(nearest, distances.amin(0))
    count = len(generated.features)
    return Support(
        precision=inside / count,
        recall=float(recalled.double().mean()),
        density=dense / (COVERAGE_NEIGHBOUR * count),
        coverage=float((nearest <= real.fifth).double().mean()),
    )


def class_divergence(generated: Tensor, real: Tensor, classes: int) -> float:
    """KL(generated || real) of the class histograms, in nats; both labels are (count,) int64.

    If one of ten equally frequent classes is never generated, the result is log(10 / 9). A class without real images
    counts as half an image, so that the result is finite.
    """
    p, q = (torch.bincount(labels, minlength=classes).double() / len(labels) for labels in (generated, real))
    q = q.clamp(min=0.5 / len(real))
    return max(0.0, float(torch.xlogy(p, p).sum() - torch.xlogy(p, q).sum()))


def nearest_distances(queries: Tensor, points: Tensor) -> Tensor:
    """The distance of each of ``queries`` to the nearest of ``points``, (queries,)."""
    return torch.cat([rows.amin(1) for _, rows in _distances(queries, points)])


@dataclass(frozen=True)
class Memorisation:
    """The distance of images to the training set, compared with that of held-out images.

    ``ratio``: their median distance to the nearest training image divided by that of held-out images; about 1, near 0
    for copies. ``copies``: the fraction below the 1 % quantile of held-out images; about 0.01, 1 for copies.
    """

    ratio: float
    copies: float


def memorisation(generated: Tensor, held_out: Tensor) -> Memorisation:
    """Compare distances to the nearest training image, (count,) each, of generated and held-out images."""
    near = held_out.quantile(NEAR_SHARE)
    return Memorisation(float(generated.median() / held_out.median()), float((generated <= near).double().mean()))


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)
    return root


def _blocks(features: Tensor, size: int) -> list[Tensor]:
    return [block for block in torch.split(features.double(), size) if len(block) == size]


def _block_distance(first: Tensor, second: Tensor) -> float:
    within = (_without_diagonal(_kernel(features, features)) for features in (first, second))
    return float(sum(within) - 2 * _kernel(first, second).mean())


def _kernel(first: Tensor, second: Tensor) -> Tensor:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _without_diagonal(kernel: Tensor) -> Tensor:
    count = len(kernel)
    return (kernel.sum() - kernel.trace()) / (count * (count - 1))


def _distances(rows: Tensor, columns: Tensor) -> Iterator[tuple[int, Tensor]]:
    """For each chunk of rows the index of its first row and the distances to all columns, (chunk, columns)."""
    for first in range(0, len(rows), CHUNK):
        yield first, torch.cdist(rows[first : first + CHUNK], columns)


def _smallest(distances: Tensor, count: int) -> Tensor:
    return distances.topk(count, dim=1, largest=False).values
