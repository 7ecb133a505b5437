from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from trainer.models.gan import Discriminator, Generator
from trainer.models.parts import EpsilonDenoise, PixelDecode
from trainer.models.unet import UNet
from trainer.models.vae import Decoder, Encoder

CLASSES, WIDTH, LATENT = 10, 8, 4
Shape = tuple[int, int, int]
Build = Callable[[Shape], nn.Module]
SHAPES: list[Shape] = [(1, 28, 28), (3, 32, 32)]


def epsilon_denoise(shape: Shape) -> nn.Module:
    alpha = torch.linspace(0.999, 0.01, 100)
    return EpsilonDenoise(UNet(shape, CLASSES, WIDTH, blocks=1, dropout=0.1), alpha, (1 - alpha**2).sqrt())


#: name -> (constructor, what it takes beside the label, what it gives)
NETWORKS: dict[str, tuple[Build, str, str]] = {
    "encoder": (lambda shape: Encoder(shape, CLASSES, WIDTH, LATENT), "image", "two latents"),
    "decoder": (lambda shape: Decoder(shape, CLASSES, WIDTH, LATENT), "latent", "image"),
    "generator": (lambda shape: Generator(shape, CLASSES, WIDTH, LATENT), "latent", "image"),
    "discriminator": (lambda shape: Discriminator(shape, CLASSES, WIDTH), "image", "logit"),
    "unet": (lambda shape: UNet(shape, CLASSES, WIDTH, blocks=2, dropout=0.1), "image and t", "image"),
    "epsilon_denoise": (epsilon_denoise, "image and t", "image"),
}


def randomised(network: nn.Module) -> nn.Module:
    """Without the zeros and tiny weights of the start, which hide what the layers behind them do."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
    return network


def inputs(takes: str, shape: Shape, batch: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(batch)
    label = torch.arange(batch) % (CLASSES + 1)
    size = (LATENT,) if takes == "latent" else shape
    x = torch.randn(batch, *size, generator=generator)
    return (x, torch.rand(batch, generator=generator), label) if takes == "image and t" else (x, label)


def as_tuple(output: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


@pytest.fixture(params=NETWORKS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(name: str, shape: Shape) -> None:
    build, takes, gives = NETWORKS[name]
    wanted = {
        "image": [(5, *shape)],
        "two latents": [(5, LATENT), (5, LATENT)],
        "logit": [(5,)],
    }
    output = as_tuple(build(shape)(*inputs(takes, shape, 5)))
    assert [part.shape for part in output] == wanted[gives]


@pytest.mark.parametrize("shape", SHAPES)
def test_scripted_is_eager(name: str, shape: Shape) -> None:
    build, takes, _ = NETWORKS[name]
    eager = randomised(build(shape)).eval()
    scripted = torch.jit.script(eager)
    for batch in (1, 3, 12):
        arguments = inputs(takes, shape, batch)
        torch.testing.assert_close(scripted(*arguments), eager(*arguments), rtol=0.0, atol=1e-5)


def test_a_picture_depends_on_its_label_and_on_no_neighbour(name: str) -> None:
    build, takes, _ = NETWORKS[name]
    network = randomised(build((1, 28, 28))).eval()
    *rest, label = inputs(takes, (1, 28, 28), 4)
    together = as_tuple(network(*rest, label))
    for row in range(4):
        alone = as_tuple(network(*(value[row : row + 1] for value in rest), label[row : row + 1]))
        torch.testing.assert_close(alone, tuple(part[row : row + 1] for part in together), rtol=1e-4, atol=1e-4)
    relabelled = as_tuple(network(*rest, label + 1))
    assert all((part - other).abs().max() > 1e-3 for part, other in zip(together, relabelled, strict=True))


def test_every_weight_gets_a_gradient(name: str) -> None:
    build, takes, _ = NETWORKS[name]
    network = randomised(build((1, 28, 28)))
    loss = sum((part.square().sum() for part in as_tuple(network(*inputs(takes, (1, 28, 28), 11)))), torch.zeros(()))
    loss.backward()  # type: ignore[no-untyped-call]
    idle = [name for name, weight in network.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert idle == []


def test_pictures_of_decoders_stay_in_the_unit_range() -> None:
    for name in ("decoder", "generator"):
        build, takes, _ = NETWORKS[name]
        latent, label = inputs(takes, (1, 28, 28), 8)
        assert randomised(build((1, 28, 28)))(100 * latent, label).abs().max() <= 1.0


def test_the_unet_starts_by_predicting_nothing() -> None:
    network = UNet((1, 28, 28), CLASSES, WIDTH, blocks=1, dropout=0.0)
    assert not network(*inputs("image and t", (1, 28, 28), 3)).any()


def test_the_pixel_decoder_is_the_identity() -> None:
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(PixelDecode()(x, torch.zeros(2, dtype=torch.int64)), x)
