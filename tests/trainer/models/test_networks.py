from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from service.contract.manifest import NoiseSchedule
from service.sampling.schedules import alpha_sigma
from trainer.models import dcgan, gan
from trainer.models.latent import LatentDecode, LatentEncode, LatentNet, Standardise
from trainer.models.parts import PixelDecode, XStart
from trainer.models.prior import CouplingFlow, PriorDecode, PriorEncode
from trainer.models.pyramid import Decoder, Encoder, Layout
from trainer.models.unet import UNet

CLASSES, WIDTH, LATENT = 10, 8, 4
Shape = tuple[int, int, int]
Build = Callable[[Shape], nn.Module]
SHAPES: list[Shape] = [(1, 28, 28), (3, 32, 32), (3, 64, 64)]


def map_shape(shape: Shape) -> Shape:
    return (2, shape[1] // 4, shape[2] // 4)


def encoder(shape: Shape) -> Encoder:
    return Encoder(Layout(shape, CLASSES, (LATENT,), WIDTH, blocks=1))


def decoder(shape: Shape) -> Decoder:
    return Decoder(Layout(shape, CLASSES, (LATENT,), WIDTH, blocks=1))


def map_encoder(shape: Shape) -> Encoder:
    return Encoder(Layout(shape, CLASSES, map_shape(shape), WIDTH, blocks=1))


def map_decoder(shape: Shape) -> Decoder:
    return Decoder(Layout(shape, CLASSES, map_shape(shape), WIDTH, blocks=2))


def prior() -> CouplingFlow:
    return CouplingFlow(LATENT, CLASSES, hidden=16, layers=3)


def unet(shape: Shape) -> UNet:
    return UNet(shape, CLASSES, WIDTH, blocks=2, dropout=0.1)


def x_start(shape: Shape) -> XStart:
    return XStart(unet(shape), *alpha_sigma(NoiseSchedule(kind="flow", timesteps=100)), "velocity")


#: name -> (constructor, what it takes beside the label, what it gives)
NETWORKS: dict[str, tuple[Build, str, str]] = {
    "encoder": (encoder, "image", "two latents"),
    "decoder": (decoder, "latent", "image"),
    "map encoder": (map_encoder, "image", "two maps"),
    "map decoder": (map_decoder, "map", "image"),
    "prior": (lambda shape: prior(), "latent", "latent"),
    "prior encode": (lambda shape: PriorEncode(encoder(shape), prior()), "image", "two latents"),
    "prior decode": (lambda shape: PriorDecode(decoder(shape), prior()), "latent", "image"),
    "latent encode": (lambda shape: LatentEncode(map_encoder(shape), Standardise(2)), "image", "two maps"),
    "latent decode": (lambda shape: LatentDecode(map_decoder(shape), Standardise(2)), "map", "image"),
    "latent net": (lambda shape: LatentNet(map_shape(shape), CLASSES, WIDTH, 2, 0.1), "map and t", "map"),
    "residual discriminator": (lambda shape: gan.Discriminator(shape, CLASSES, WIDTH, 1), "image", "logit"),
    "dcgan generator": (lambda shape: dcgan.Generator(shape, CLASSES, WIDTH, LATENT), "latent", "image"),
    "dcgan discriminator": (lambda shape: dcgan.Discriminator(shape, CLASSES, WIDTH), "image", "logit"),
    "unet": (unet, "image and t", "image"),
    "x_start": (x_start, "image and t", "image"),
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
    kind, _, timed = takes.partition(" and ")
    size = {"latent": (LATENT,), "map": map_shape(shape), "image": shape}[kind]
    x = torch.randn(batch, *size, generator=generator)
    return (x, torch.rand(batch, generator=generator).clamp(min=0.01), label) if timed else (x, label)


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
        "latent": [(5, LATENT)],
        "map": [(5, *map_shape(shape))],
        "two latents": [(5, LATENT)] * 2,
        "two maps": [(5, *map_shape(shape))] * 2,
        "logit": [(5,)],
    }
    output = as_tuple(build(shape)(*inputs(takes, shape, 5)))
    assert [part.shape for part in output] == wanted[gives]


@pytest.mark.parametrize("shape", SHAPES[:2])
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
    for name in ("decoder", "map decoder", "dcgan generator"):
        build, takes, _ = NETWORKS[name]
        latent, label = inputs(takes, (1, 28, 28), 8)
        assert randomised(build((1, 28, 28)))(100 * latent, label).abs().max() <= 1.0


@pytest.mark.parametrize(("name", "takes"), [("unet", "image and t"), ("latent net", "map and t")])
def test_denoisers_start_by_predicting_nothing(name: str, takes: str) -> None:
    network = NETWORKS[name][0]((1, 28, 28))
    assert not network(*inputs(takes, (1, 28, 28), 3)).any()


def test_the_log_variance_of_a_wild_encoder_is_bounded() -> None:
    wild = randomised(encoder((1, 28, 28)))
    with torch.no_grad():
        for parameter in wild.parameters():
            parameter.mul_(30.0)
    _, logvar = wild.requires_grad_(False)(*inputs("image", (1, 28, 28), 8))
    assert (float(logvar.min()), float(logvar.max())) == (-12.0, 6.0)


def test_the_pixel_decoder_is_the_identity() -> None:
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(PixelDecode()(x, torch.zeros(2, dtype=torch.int64)), x)


def test_maps_made_of_a_vector_have_the_layout_of_the_convolutions_after_them() -> None:
    network = decoder((1, 28, 28)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    layouts: list[bool] = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.register_forward_pre_hook(
                lambda _, inputs: layouts.append(inputs[0].is_contiguous(memory_format=torch.channels_last))
            )
    network(torch.zeros(2, LATENT), torch.zeros(2, dtype=torch.int64))
    assert layouts == [True] * 6


def test_large_patches_make_small_maps_of_large_images() -> None:
    shape, latent = (3, 96, 128), (4, 12, 16)
    encode = Encoder(Layout(shape, CLASSES, latent, WIDTH, blocks=1, patch=4))
    decode = Decoder(Layout(shape, CLASSES, latent, WIDTH, blocks=1, patch=4))
    label = torch.arange(2)
    mean, logvar = encode(torch.rand(2, *shape), label)
    assert mean.shape == logvar.shape == (2, *latent)
    assert decode(mean, label).shape == (2, *shape)


def test_a_unet_of_larger_patches_sees_and_predicts_every_pixel() -> None:
    network = randomised(UNet((3, 32, 64), CLASSES, WIDTH, blocks=1, dropout=0.0, patch=4))
    x = torch.randn(1, 3, 32, 64, requires_grad=True)
    inputs = (x, torch.tensor([0.5]), torch.tensor([1]))
    prediction = network(*inputs)
    assert prediction.shape == x.shape
    # Pixels that share a value, but for a few of equal rounding, would be copies of each other.
    assert prediction.unique().numel() > 0.99 * x.numel()
    torch.testing.assert_close(torch.jit.script(network)(*inputs), prediction)
    (gradient,) = torch.autograd.grad(prediction.square().sum(), x)
    assert (gradient != 0).all()


def test_a_discriminator_of_larger_patches_sees_every_pixel() -> None:
    network = randomised(gan.Discriminator((3, 64, 64), CLASSES, WIDTH, 1, patch=4))
    image = torch.randn(2, 3, 64, 64, requires_grad=True)
    logits = network(image, torch.tensor([0, 1]))
    assert logits.shape == (2,)
    (gradient,) = torch.autograd.grad(logits.sum(), image)
    assert (gradient != 0).all()
