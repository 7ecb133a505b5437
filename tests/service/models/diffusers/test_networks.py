from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from torch import Tensor

from service.models.diffusers.networks import Networks, guidance_embedding
from tests.service.models.diffusers.conftest import load
from tests.service.models.diffusers.tiny import NAMES

NetworksOf = Callable[[str], Networks]


def rows_of(
    networks: Networks, count: int, height: int = 16, width: int = 16
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Random rows: every row has its own timestep and inputs."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(count, *networks.latent_shape(height, width), generator=generator)
    shapes = networks.input_shapes(height, width)
    inputs = {name: torch.rand(count, *shape, generator=generator) for name, shape in shapes.items()}
    if "label" in inputs:
        inputs["label"] = torch.arange(count) % 5
    return x, torch.randint(0, 1000, (count,), generator=generator), inputs


def part(inputs: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[rows] for name, value in inputs.items()}


@pytest.mark.parametrize("name", NAMES)
def test_every_row_equals_its_own_single_run(networks_of: NetworksOf, name: str) -> None:
    networks = networks_of(name)
    x, t, inputs = rows_of(networks, 4)
    together = networks.denoise(x, t, inputs)
    assert together.shape == x.shape
    for row in range(4):
        alone = networks.denoise(x[[row]], t[[row]], part(inputs, [row]))
        torch.testing.assert_close(together[row], alone[0], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", NAMES)
def test_every_input_matters(networks_of: NetworksOf, name: str) -> None:
    networks = networks_of(name)
    x, t, inputs = rows_of(networks, 2)
    before = networks.denoise(x, t, inputs)
    for changed in inputs:
        value = inputs[changed]
        other = {**inputs, changed: 1 + value if changed == "label" else value + 1.0}
        assert not torch.equal(networks.denoise(x, t, other), before), changed


def test_timesteps_may_be_fractions(networks_of: NetworksOf) -> None:
    networks = networks_of("sd")
    x, _, inputs = rows_of(networks, 2)
    whole = networks.denoise(x, torch.tensor([10, 999]), inputs)
    assert torch.equal(networks.denoise(x, torch.tensor([10.0, 999.0]), inputs), whole)
    assert not torch.equal(networks.denoise(x, torch.tensor([10.5, 999.0]), inputs), whole)


def test_a_row_of_scale_zero_is_bit_equal_to_the_plain_unet(networks_of: NetworksOf) -> None:
    networks = networks_of("control")
    x, t, inputs = rows_of(networks, 3)
    inputs["hint_scale"] = torch.tensor([0.0, 0.9, 0.0])
    plain = networks.denoise(x, t, {"context": inputs["context"]})
    mixed = networks.denoise(x, t, inputs)
    assert torch.equal(mixed[[0, 2]], plain[[0, 2]])
    assert not torch.allclose(mixed[1], plain[1], atol=1e-3)


def test_two_control_nets_add_up(networks_of: NetworksOf, folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    path = Path(copytree(folder_of("control"), tmp_path / "control"))
    copytree(path / "controlnet", path / "controlnet_canny")
    both = load(path)
    assert {"hint", "hint_scale", "hint_canny", "hint_scale_canny"} < both.input_shapes(16, 16).keys()
    x, t, inputs = rows_of(both, 2)
    half = {"hint_scale": torch.full((2,), 0.5), "hint_scale_canny": torch.full((2,), 0.5)}
    same = {**inputs, **half, "hint_canny": inputs["hint"]}
    whole = {"context": inputs["context"], "hint": inputs["hint"], "hint_scale": torch.ones(2)}
    expected = networks_of("control").denoise(x, t, whole)
    torch.testing.assert_close(both.denoise(x, t, same), expected, rtol=1e-5, atol=1e-5)


def test_shapes_follow_the_size(networks_of: NetworksOf) -> None:
    assert networks_of("inpaint9").latent_shape(24, 40) == (4, 12, 20)
    assert networks_of("inpaint9").input_shapes(24, 40) == {
        "context": (16, 16),
        "mask": (1, 12, 20),
        "masked_latent": (4, 12, 20),
    }
    assert networks_of("control").input_shapes(24, 40)["hint"] == (3, 24, 40)
    assert networks_of("ddpm").input_shapes(8, 8) == {}
    for name in ("control", "sdxl", "inpaint9"):
        networks = networks_of(name)
        x, t, inputs = rows_of(networks, 2, 24, 40)
        assert networks.denoise(x, t, inputs).shape == (2, 4, 12, 20)


@pytest.mark.parametrize(("scale", "width"), [(1.0, 32), (8.5, 32), (7.3, 33)])
def test_the_guidance_embedding_is_that_of_diffusers(pipe_of: Callable[[str], Any], scale: float, width: int) -> None:
    theirs = pipe_of("lcm").get_guidance_scale_embedding(torch.tensor(scale - 1).repeat(1), embedding_dim=width)
    assert torch.equal(guidance_embedding(scale, width), theirs[0])


def test_models_of_pixels_have_no_prompt(networks_of: NetworksOf) -> None:
    networks = networks_of("ddpm")
    assert networks.text is None
    assert networks.autoencoder is None
    latent = torch.tensor([[-3.0, 0.5, 3.0]])
    assert torch.equal(networks.decode(latent), torch.tensor([[-1.0, 0.5, 1.0]]))
