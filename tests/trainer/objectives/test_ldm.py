import torch
import torch.nn.functional as F
from torch import Tensor

from tests.trainer.objectives.conftest import MakeObjective, batch_of, seeded
from trainer.objectives.base import Position
from trainer.objectives.ldm import LatentDiffusion, LdmObjective
from trainer.objectives.vae import reparametrise


def ldm(make_objective: MakeObjective) -> LdmObjective:
    objective = make_objective("ldm")
    assert isinstance(objective, LdmObjective)
    return objective


def test_it_begins_with_the_autoencoder_and_never_moves_it(
    make_objective: MakeObjective, averages: dict[str, dict[str, Tensor]]
) -> None:
    objective = ldm(make_objective)
    standardise = {name: value.clone() for name, value in objective.model.standardise.state_dict().items()}
    for step in range(3):
        objective.train_step(*batch_of(8), Position(step, 3))
    vae = objective.model.vae.state_dict()
    assert vae.keys() == averages["ldm"].keys()
    assert all(torch.equal(vae[name], value) for name, value in averages["ldm"].items())
    assert all(torch.equal(objective.model.standardise.state_dict()[name], was) for name, was in standardise.items())


def test_the_codes_it_learns_are_standardised(make_objective: MakeObjective) -> None:
    """On the pictures that it was measured on: means of mean 0 and variance 1 in every channel."""
    encode = ldm(make_objective).parts(ldm(make_objective).generator).encode
    assert encode is not None
    mean, _ = encode(*batch_of(32))
    torch.testing.assert_close(mean.mean(dim=(0, 2, 3)), torch.zeros(2), rtol=0.0, atol=1e-5)
    torch.testing.assert_close(mean.std(dim=(0, 2, 3)), torch.ones(2), rtol=0.0, atol=1e-5)


def test_decoding_a_code_is_the_autoencoders_reconstruction(make_objective: MakeObjective) -> None:
    objective, (images, label) = ldm(make_objective), batch_of(5)
    parts = objective.parts(objective.generator)
    assert parts.encode is not None
    code, _ = objective.model.vae.encoder(images, label)
    wanted = objective.model.vae.decoder(code, label)
    torch.testing.assert_close(parts.decode(parts.encode(images, label)[0], label), wanted, rtol=0.0, atol=1e-5)


def test_the_loss_is_that_of_the_codes(make_objective: MakeObjective) -> None:
    """Of a network that predicts no velocity, as one does at first: the mean square of noise - latent."""
    objective, (images, label) = ldm(make_objective), batch_of(8)
    objective.begin_micro_batch(5)
    loss = objective.train_step(images, label, Position(0, 8))["velocity_mse"]
    draws = seeded(5)
    with torch.no_grad():
        mean, logvar = objective.model.vae.encoder(images, label)
        latent = objective.model.standardise(reparametrise(mean, logvar, draws.randn_like(mean)))
    objective.denoising.draw_steps(8, draws)
    torch.testing.assert_close(loss, F.mse_loss(draws.randn_like(latent), latent))


def test_latents_are_maps_and_unbounded(make_objective: MakeObjective) -> None:
    objective = ldm(make_objective)
    assert isinstance(objective.generator, LatentDiffusion)
    parts = objective.parts(objective.generator)
    assert parts.latent_shape == (2, 7, 7)
    assert parts.diffusion is not None
    assert parts.diffusion.x0_range is None
