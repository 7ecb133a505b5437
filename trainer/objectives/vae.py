"""The evidence lower bound (Kingma & Welling 2014) with an optimal decoder variance (Rybkin et al. 2021)."""

from torch import Tensor, nn

from trainer.config import VaeConfig
from trainer.models.parts import Parts
from trainer.models.vae import VAE
from trainer.objectives.base import Objective, Task
from trainer.processes import batch_mean


def reparametrise(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """A draw of N(mean, exp(logvar)) through which gradients flow, from standard normal ``noise``: (batch, latent)."""
    return mean + (0.5 * logvar).exp() * noise


def kl_to_standard_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) || N(0, 1)) in nats, summed over the latent: (batch,)."""
    return 0.5 * (mean.square() + logvar.exp() - 1.0 - logvar).sum(dim=1)


def gaussian_nll(image: Tensor, reconstruction: Tensor) -> Tensor:
    """Negative log-likelihood in nats per image, up to a constant, under the best variance for the batch.

    With one variance for all pixels its optimum is the mean squared error, and the value at that optimum is
    D/2 log(MSE) for D pixels (sigma-VAE, arXiv 2006.13202, section 3): no weight to tune by hand.
    """
    pixels = image[0].numel()
    return 0.5 * pixels * batch_mean((image - reconstruction).square().mean()).log()


class VaeObjective(Objective):
    """Reconstruction + beta KL; beta rises over the first steps, so that codes are used before they cost."""

    def __init__(self, task: Task, model: VaeConfig) -> None:
        super().__init__(task)
        self.model = model
        vae = VAE(task.image_shape, task.classes, model.width, model.latent)
        self.generator = self.place(vae)
        self.networks = nn.ModuleDict({"vae": vae})
        self.optimizers = {"vae": self.make_optimizer(vae.parameters())}
        self.latent_shape = (model.latent,)

    def train_step(self, images: Tensor, label: Tensor, progress: float) -> dict[str, Tensor]:
        vae = self.networks["vae"]
        assert isinstance(vae, VAE)
        with self.autocast():
            mean, logvar = vae.encoder(images, label)
            mean, logvar = mean.float(), logvar.float()
            reconstruction = vae.decoder(reparametrise(mean, logvar, self.draws.randn_like(mean)), label)
        negative_log_likelihood = gaussian_nll(images, reconstruction.float())
        kl = kl_to_standard_normal(mean, logvar).mean()
        self.descend(self.optimizers["vae"], negative_log_likelihood + self.kl_weight(progress) * kl)
        return {"reconstruction": negative_log_likelihood.detach(), "kl": kl.detach()}

    def kl_weight(self, progress: float) -> float:
        """beta, risen linearly over the warm-up."""
        if progress >= self.model.kl_warmup:
            return self.model.beta
        return self.model.beta * progress / self.model.kl_warmup

    def parts(self, generator: nn.Module) -> Parts:
        assert isinstance(generator, VAE)
        return Parts(
            self.task.image_shape,
            self.task.classes,
            self.latent_shape,
            encode=generator.encoder,
            decode=generator.decoder,
        )
