from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch

from service.models.diffusers import autoencoder
from service.models.diffusers.networks import Networks
from tests.service.models.diffusers.conftest import load
from tests.service.models.diffusers.tiny import edit_json

NetworksOf = Callable[[str], Networks]


def test_latents_are_those_of_diffusers(networks_of: NetworksOf, pipe_of: Callable[[str], Any]) -> None:
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    mean, logvar = networks_of("sd").encode(image)
    with torch.no_grad():
        posterior = pipe_of("sd").vae.encode(image).latent_dist
    torch.testing.assert_close(mean, 0.18215 * posterior.mean)
    torch.testing.assert_close((logvar / 2).exp(), 0.18215 * posterior.std)
    assert mean.shape == logvar.shape == (2, 4, 8, 8)


def test_a_vae_that_standardises_its_latents(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    """As SDXL's pipeline: z = latent * std / scale + mean, and back."""
    path = Path(copytree(folder_of("sdxl"), tmp_path / "sdxl"))
    edit_json(path / "vae/config.json", latents_mean=[0.5, -1.0, 0.0, 2.0], latents_std=[1.0, 2.0, 0.5, 3.0])
    networks = load(path)
    mean, std = torch.tensor([0.5, -1.0, 0.0, 2.0])[:, None, None], torch.tensor([1.0, 2.0, 0.5, 3.0])[:, None, None]
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = load(folder_of("sdxl"))
    expected = plain.decode((latent * std / 0.18215 + mean) * 0.18215)
    torch.testing.assert_close(networks.decode(latent), expected, rtol=1e-5, atol=1e-5)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    (ours, ours_logvar), (theirs, theirs_logvar) = networks.encode(image), plain.encode(image)
    torch.testing.assert_close(ours, (theirs / 0.18215 - mean) * 0.18215 / std, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours_logvar, theirs_logvar - 2 * std.log(), rtol=1e-4, atol=1e-4)


def test_large_pictures_are_decoded_in_tiles(
    networks_of: NetworksOf, pipe_of: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoencoder, "WHOLE_PIXELS", 32 * 32)
    decoder = networks_of("sd").autoencoder
    assert decoder is not None
    latent = torch.randn(1, 4, 20, 24, generator=torch.Generator().manual_seed(1))
    assert decoder.is_tiled(latent)
    assert not decoder.is_tiled(latent[..., :16, :16])
    vae = pipe_of("sd").vae
    vae.enable_tiling()
    try:
        with torch.no_grad():
            theirs = vae.decode(latent / 0.18215, return_dict=False)[0]
    finally:
        vae.disable_tiling()
    torch.testing.assert_close(decoder.decode(latent), theirs.clamp(-1, 1), rtol=1e-5, atol=1e-5)
    monkeypatch.setattr(autoencoder, "WHOLE_PIXELS", 1 << 20)
    assert not torch.allclose(decoder.decode(latent), theirs.clamp(-1, 1), atol=1e-3)
