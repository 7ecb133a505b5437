"""The evidence lower bound against its closed forms: linear networks on Gaussian data (probabilistic PCA)."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution, MultivariateNormal, Normal, kl_divergence

from tests.trainer.conftest import MODELS
from tests.trainer.objectives.conftest import MakeObjective
from trainer.models.prior import CouplingFlow
from trainer.objectives.vae import (
    VaeObjective,
    gaussian_nll,
    kl_to_standard_normal,
    prior_nll,
    reparametrise,
    with_free_bits,
)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_density(distribution: Distribution, value: Tensor) -> Tensor:
    result: Tensor = distribution.log_prob(value)
    return result


# The KL term


def test_kl_is_that_of_torch_distributions() -> None:
    mean, logvar = normal(2, 6, 5).unbind()
    wanted = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_to_standard_normal(mean, logvar), wanted)


def test_the_gradient_of_kl_is_the_analytic_one() -> None:
    mean, logvar = (values.requires_grad_() for values in normal(2, 6, 5).unbind())
    gradients = torch.autograd.grad(kl_to_standard_normal(mean, logvar).sum(), [mean, logvar])
    torch.testing.assert_close(gradients, (mean.detach(), 0.5 * (logvar.detach().exp() - 1)))


def test_kl_of_a_map_is_counted_cell_by_cell() -> None:
    assert kl_to_standard_normal(normal(3, 2, 7, 7), normal(3, 2, 7, 7, seed=1)).shape == (3, 98)


def test_free_bits_are_free() -> None:
    kl = torch.tensor([[0.1, 2.0], [0.3, 4.0]], requires_grad=True)
    assert float(with_free_bits(kl.detach(), 0.0)) == pytest.approx(3.2)
    loss = with_free_bits(kl, 0.5)
    assert float(loss.detach()) == pytest.approx(3.5)
    (gradient,) = torch.autograd.grad(loss, kl)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.5], [0.0, 0.5]]))


@pytest.mark.parametrize(
    ("warmup", "share", "weight"),
    [(0.5, 0.0, 0.0), (0.5, 0.25, 1.0), (0.5, 0.5, 2.0), (0.5, 0.9, 2.0), (0.0, 0.0, 2.0)],
)
def test_the_kl_weight_rises_to_beta(make_objective: MakeObjective, warmup: float, share: float, weight: float) -> None:
    model = MODELS["vae"] | {"beta": 2.0, "kl_warmup": warmup}
    objective = make_objective("vae", model=model)
    assert isinstance(objective, VaeObjective)
    assert objective.kl_weight(share) == pytest.approx(weight)


# Reparametrisation and likelihood


def test_reparametrised_draws_have_the_moments() -> None:
    mean, logvar = torch.tensor([-2.0, 0.5]), torch.tensor([0.0, math.log(9.0)])
    draws = reparametrise(mean.expand(100_000, 2), logvar.expand(100_000, 2), normal(100_000, 2).float())
    error = 5 * logvar.exp().sqrt() / math.sqrt(len(draws))  # five standard errors of the mean
    assert ((draws.mean(dim=0) - mean).abs() < error).all()
    torch.testing.assert_close(draws.var(dim=0), logvar.exp(), rtol=0.03, atol=0.0)


def test_the_reparametrised_gradient_is_that_of_the_expectation() -> None:
    """E[z^2] = mean^2 + variance, so its derivatives are 2 mean and, by the log-variance, the variance."""
    mean = torch.tensor([-2.0, 0.5], dtype=torch.float64).requires_grad_()
    logvar = torch.tensor([0.0, math.log(4.0)], dtype=torch.float64).requires_grad_()
    draws = reparametrise(mean.expand(200_000, 2), logvar.expand(200_000, 2), normal(200_000, 2))
    by_mean, by_logvar = torch.autograd.grad(draws.square().mean(dim=0).sum(), [mean, logvar])
    torch.testing.assert_close(by_mean, 2 * mean.detach(), rtol=0.0, atol=0.05)
    torch.testing.assert_close(by_logvar, logvar.detach().exp(), rtol=0.0, atol=0.1)


def test_the_likelihood_is_the_gaussian_one_at_its_best_variance() -> None:
    """Rybkin et al. 2021: the variance that maximises the likelihood is the mean squared error."""
    image, reconstruction = normal(2, 7, 1, 4, 4).unbind()
    mse = float((image - reconstruction).square().mean())

    def negative_log_likelihood(variance: float) -> Tensor:
        """Per image of 16 pixels, less its constant at the optimum, which `gaussian_nll` leaves out."""
        per_pixel = F.gaussian_nll_loss(reconstruction, image, torch.full_like(image, variance))
        return 16 * (per_pixel - 0.5)

    torch.testing.assert_close(gaussian_nll(image, reconstruction), negative_log_likelihood(mse))
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert negative_log_likelihood(factor * mse) > negative_log_likelihood(mse)


# Linear networks on Gaussian data


def gaussian_data(count: int, eigenvalues: Tensor) -> Tensor:
    """Rows (count, dimensions) of mean 0 whose covariance has exactly these eigenvalues, along random axes."""
    raw = normal(count, len(eigenvalues), seed=1)
    raw = raw - raw.mean(dim=0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T @ raw / count)).T
    axes, _ = torch.linalg.qr(normal(len(eigenvalues), len(eigenvalues), seed=2))
    rows: Tensor = white * eigenvalues.sqrt() @ axes.T
    return rows


def test_a_linear_vae_learns_probabilistic_pca() -> None:
    """Its bound is tight at the optimum, whose likelihood has a closed form (Tipping & Bishop 1999, equation 7).

    The best variance of what two codes cannot tell is the mean of the other eigenvalues.
    """
    eigenvalues = torch.tensor([4.0, 2.0, 0.3, 0.2, 0.1], dtype=torch.float64)
    data, latent = gaussian_data(2000, eigenvalues), 2
    encoder = nn.Linear(len(eigenvalues), latent, dtype=torch.float64)
    decoder = nn.Linear(latent, len(eigenvalues), dtype=torch.float64)
    logvar = nn.Parameter(torch.zeros(latent, dtype=torch.float64))
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters(), logvar], lr=0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    bounds = []
    for _ in range(300):
        mean = encoder(data)
        kl = kl_to_standard_normal(mean, logvar.expand_as(mean))
        codes = reparametrise(mean, logvar.expand_as(mean), torch.randn_like(mean))
        bound = gaussian_nll(data, decoder(codes)) + with_free_bits(kl, 0.0)
        optimizer.zero_grad()
        bound.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        bounds.append(float(bound.detach()))
    noise = eigenvalues[latent:].mean()
    best = 0.5 * (eigenvalues[:latent].log().sum() + (len(eigenvalues) - latent) * noise.log())
    assert sum(bounds[-50:]) / 50 == pytest.approx(float(best), abs=0.03)
    covariance = decoder.weight @ decoder.weight.T + noise * torch.eye(len(eigenvalues), dtype=torch.float64)
    _, axes = torch.linalg.eigh(data.T @ data / len(data))
    learnt = (axes.T @ covariance.detach() @ axes).diagonal().flip(0)
    torch.testing.assert_close(learnt[:latent], eigenvalues[:latent], rtol=0.05, atol=0.0)


class LinearGaussian:
    """z ~ N(0, 1), x ~ N(W z, variance), everything of it in closed form."""

    weight = normal(5, 2, seed=3)
    variance = 0.4

    def log_likelihood(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + self.variance * torch.eye(5, dtype=torch.float64)
        return log_density(MultivariateNormal(torch.zeros(5, dtype=torch.float64), covariance), x)

    def log_joint(self, x: Tensor, z: Tensor) -> Tensor:
        likelihood = log_density(Normal(z @ self.weight.T, math.sqrt(self.variance)), x).sum(dim=-1)
        return likelihood + log_density(Normal(0.0, 1.0), z).sum(dim=-1)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        precision = torch.eye(2, dtype=torch.float64) + self.weight.T @ self.weight / self.variance
        return x @ self.weight @ torch.inverse(precision) / self.variance, torch.inverse(precision)

    def bound(self, x: Tensor, mean: Tensor, logvar: Tensor) -> Tensor:
        """The ELBO, with the KL term under test and the likelihood's expectation in closed form."""
        spread = (self.weight.square().sum(dim=0) * logvar.exp()).sum(dim=-1) / (2 * self.variance)
        likelihood = log_density(Normal(mean @ self.weight.T, math.sqrt(self.variance)), x).sum(dim=-1)
        return likelihood - spread - kl_to_standard_normal(mean, logvar).sum(dim=-1)


def importance_bound(model: LinearGaussian, x: Tensor, mean: Tensor, logvar: Tensor, draws: int) -> Tensor:
    """IWAE's bound (Burda et al. 2016) with ``draws`` importance samples for each row of ``x``."""
    shape = (draws, *mean.shape)
    z = reparametrise(mean.expand(shape), logvar.expand(shape), torch.randn(shape, dtype=mean.dtype))
    log_weight = model.log_joint(x, z) - log_density(Normal(mean, (0.5 * logvar).exp()), z).sum(dim=-1)
    return log_weight.logsumexp(dim=0) - math.log(draws)


def test_more_importance_samples_close_the_gap_to_the_likelihood() -> None:
    model, x = LinearGaussian(), normal(1, 5, seed=4).expand(4000, 5)
    mean, covariance = model.posterior(x)
    mean, logvar = mean + 0.3, (2 * covariance.diagonal()).log().expand_as(mean)  # somewhat beside the truth
    exact = float(model.log_likelihood(x)[0])
    bounds = [float(model.bound(x, mean, logvar).mean())]
    bounds += [float(importance_bound(model, x, mean, logvar, draws).mean()) for draws in (1, 5, 50)]
    assert bounds[1] == pytest.approx(bounds[0], abs=0.1)  # one sample is the ELBO
    assert bounds[0] < bounds[2] < bounds[3] < exact
    assert bounds[3] == pytest.approx(exact, abs=0.05)


def test_the_bound_is_tight_at_the_true_posterior() -> None:
    """With orthogonal columns of W the posterior is a product, as an encoder's is."""
    model = LinearGaussian()
    model.weight = torch.linalg.qr(model.weight)[0] * torch.tensor([2.0, 0.5], dtype=torch.float64)
    x = normal(6, 5, seed=5)
    mean, covariance = model.posterior(x)
    logvar = covariance.diagonal().log().expand_as(mean)
    torch.testing.assert_close(model.bound(x, mean, logvar), model.log_likelihood(x))
    torch.testing.assert_close(importance_bound(model, x, mean, logvar, 1), model.log_likelihood(x))


# The learned prior


def fitted(draw: Callable[[int], Tensor], steps: int) -> CouplingFlow:
    """A flow on two dimensions, fitted to batches of codes by the loss of the VAE's second stage."""
    torch.manual_seed(0)
    flow = CouplingFlow(2, 1, 32, 4)
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    label = torch.zeros(128, dtype=torch.int64)
    for _ in range(steps):
        loss = prior_nll(flow, draw(128), label)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    return flow.requires_grad_(False)


def test_the_loss_of_a_fresh_prior_is_that_of_the_standard_normal() -> None:
    codes = normal(7, 6).float()
    flow = CouplingFlow(6, 3, 8, 4)
    wanted = -log_density(Normal(0.0, 1.0), codes).sum(dim=1).mean()
    torch.testing.assert_close(prior_nll(flow, codes, torch.arange(7) % 4), wanted)


def test_the_loss_of_a_fitted_prior_is_the_entropy_of_a_gaussian() -> None:
    covariance = torch.tensor([[2.0, 0.9], [0.9, 0.6]])
    gaussian = MultivariateNormal(torch.tensor([1.0, -0.5]), covariance)
    flow = fitted(lambda count: gaussian.sample((count,)), steps=120)
    codes = gaussian.sample((20_000,))
    entropy = math.log(2 * math.pi * math.e) + 0.5 * float(covariance.det().log())
    nll = float(prior_nll(flow, codes, torch.zeros(len(codes), dtype=torch.int64)))
    assert nll == pytest.approx(entropy, abs=0.04)


def ring(count: int) -> Tensor:
    """A circle of radius root two, a little blurred: mean 0 and variance 1 in each dimension, and no normal at all."""
    angle = 2 * math.pi * torch.rand(count)
    return math.sqrt(2.0) * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.1 * torch.randn(count, 2)


def squared_mmd(one: Tensor, other: Tensor) -> float:
    """The maximum mean discrepancy under a Gaussian kernel of width 1/2, by its unbiased estimate."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(x, y).square() / (2 * 0.5**2))

    count = len(one)
    within = sum(float((kernel(x, x).sum() - count) / (count * (count - 1))) for x in (one, other))
    return within - 2 * float(kernel(one, other).mean())


def test_the_learned_prior_beats_the_standard_normal_on_a_ring() -> None:
    flow = fitted(ring, steps=250)
    noise, codes = torch.randn(1000, 2), ring(1000)
    learned = flow(noise, torch.zeros(1000, dtype=torch.int64))
    assert squared_mmd(learned, codes) < squared_mmd(noise, codes) / 3
