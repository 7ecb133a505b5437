"""The networks, in the order of each pipeline, make the pictures of diffusers' own pipeline.

The loops are small copies of the pipelines' in which only the networks are ours; the steps are diffusers' schedulers'.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from service.models.diffusers.networks import Networks
from tests.service.models.diffusers.tiny import IMAGE_SIDE, diffusers_class

NetworksOf = Callable[[str], Networks]
PipeOf = Callable[[str], Any]
#: diffusers' own schedulers convert tensors as older versions of numpy wanted.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPT, NEGATIVE = "a red Café", "blurry"


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def scheduler_of(networks: Networks, steps: int) -> Any:
    made = diffusers_class(networks.scheduler["_class_name"]).from_config(dict(networks.scheduler))
    made.set_timesteps(steps)
    return made


def grey_levels(picture: Tensor) -> np.ndarray[Any, Any]:
    """Pictures (batch, channel, height, width) in [-1, 1] as diffusers rounds them."""
    return ((picture / 2 + 0.5).clamp(0, 1) * 255).round().permute(0, 2, 3, 1).numpy()


def levels_of(images: Any) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image, dtype=np.float32) for image in images])


def require_same(ours: Tensor, images: Any) -> None:
    theirs = levels_of(images)
    assert theirs.std() > 1, "a flat picture would prove nothing"
    assert np.abs(grey_levels(ours) - theirs).max() <= 1


def batched(inputs: dict[str, Tensor], count: int = 1) -> dict[str, Tensor]:
    return {name: value[None].repeat(count, *[1] * value.ndim) for name, value in inputs.items()}


def text_inputs(networks: Networks, prompt: str) -> dict[str, Tensor]:
    return networks.encode_text(networks.tokenize(prompt).ids[None])


def conditions(networks: Networks, negative: str | None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The inputs of a prompt and of what it is guided away from."""
    assert networks.text is not None
    zeros = networks.text.no_negative() if negative is None else None
    away = batched(zeros) if zeros is not None else text_inputs(networks, negative or "")
    extra = {"time_ids": networks.time_ids(IMAGE_SIDE, IMAGE_SIDE)[None]} if networks.folder.kind == "xl" else {}
    return {**text_inputs(networks, PROMPT), **extra}, {**away, **extra}


def guided(
    networks: Networks, x: Tensor, t: Tensor, inputs: dict[str, Tensor], away: dict[str, Tensor], scale: float
) -> Tensor:
    """Both predictions in one call, as the engine makes them."""
    both = {name: torch.cat([away[name], inputs[name]]) for name in inputs}
    one, other = networks.denoise(torch.cat([x, x]), t.expand(2), both).chunk(2)
    return one + scale * (other - one)


def initial(networks: Networks, generator: torch.Generator) -> Tensor:
    return torch.randn((1, *networks.latent_shape(IMAGE_SIDE, IMAGE_SIDE)), generator=generator)


def sample(
    networks: Networks,
    scheduler: Any,
    x: Tensor,
    generator: torch.Generator,
    inputs: dict[str, Tensor],
    away: dict[str, Tensor] | None = None,
    scale: float = 7.5,
    timesteps: Tensor | None = None,
) -> Tensor:
    for t in scheduler.timesteps if timesteps is None else timesteps:
        scaled = scheduler.scale_model_input(x, t)
        if away is None:
            prediction = networks.denoise(scaled, t[None], inputs)
        else:
            prediction = guided(networks, scaled, t[None], inputs, away, scale)
        x = scheduler.step(prediction, t, x, generator=generator).prev_sample
    return x


def picture(seed: int = 0) -> Tensor:
    """A picture (1, 3, 16, 16) in [0, 1]."""
    return torch.rand(1, 3, IMAGE_SIDE, IMAGE_SIDE, generator=torch.Generator().manual_seed(seed))


def mask() -> Tensor:
    """The left half is painted anew."""
    made = torch.zeros(1, 1, IMAGE_SIDE, IMAGE_SIDE)
    made[..., : IMAGE_SIDE // 2] = 1
    return made


def encoded(networks: Networks, image: Tensor, generator: torch.Generator) -> Tensor:
    mean, logvar = networks.encode(2 * image - 1)
    return mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator)


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_models_of_pixels(networks_of: NetworksOf, pipe_of: PipeOf, name: str) -> None:
    networks, generator = networks_of(name), seeded()
    x = torch.randn((1, *networks.latent_shape(8, 8)), generator=generator)
    x = sample(networks, scheduler_of(networks, 5), x, generator, {})
    require_same(networks.decode(x), pipe_of(name)(generator=seeded(), num_inference_steps=5).images)


def test_classes_are_the_label_of_each_row(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    x = torch.randn(3, *networks_of("classes").latent_shape(8, 8), generator=seeded())
    t, label = torch.tensor([1, 500, 999]), torch.tensor([4, 0, 2])
    ours = networks_of("classes").denoise(x, t, {"label": label})
    theirs = pipe_of("classes").unet(x, t, class_labels=label).sample
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, networks_of("classes").denoise(x, t, {"label": label.roll(1)}))


@pytest.mark.parametrize("negative", [None, NEGATIVE])
@pytest.mark.parametrize("name", ["sd", "sd_v", "sdxl"])
def test_text_to_image(networks_of: NetworksOf, pipe_of: PipeOf, name: str, negative: str | None) -> None:
    networks, generator = networks_of(name), seeded()
    scheduler = scheduler_of(networks, 5)
    x = initial(networks, generator) * scheduler.init_noise_sigma
    x = sample(networks, scheduler, x, generator, *conditions(networks, negative))
    call = {"prompt": PROMPT, "negative_prompt": negative, "guidance_scale": 7.5, "num_inference_steps": 5}
    require_same(networks.decode(x), pipe_of(name)(**call, generator=seeded()).images)


def test_another_size(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    networks, generator = networks_of("sd"), seeded()
    x = torch.randn((1, *networks.latent_shape(24, 40)), generator=generator)
    x = sample(networks, scheduler_of(networks, 3), x, generator, *conditions(networks, None))
    pipe = pipe_of("sd")
    require_same(
        networks.decode(x), pipe(PROMPT, height=24, width=40, num_inference_steps=3, generator=seeded()).images
    )


def test_turbo_takes_one_step_without_guidance(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    networks, generator = networks_of("turbo"), seeded()
    scheduler = scheduler_of(networks, 1)
    x = initial(networks, generator) * scheduler.init_noise_sigma
    x = sample(networks, scheduler, x, generator, text_inputs(networks, PROMPT))
    pipe = pipe_of("turbo")
    require_same(networks.decode(x), pipe(PROMPT, num_inference_steps=1, guidance_scale=0.0, generator=seeded()).images)


def test_latent_consistency_embeds_the_guidance_scale(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    networks, generator = networks_of("lcm"), seeded()
    scheduler, x = scheduler_of(networks, 4), initial(networks, generator)
    inputs = {**text_inputs(networks, PROMPT), "timestep_cond": networks.guidance_embedding(8.5)[None]}
    for t in scheduler.timesteps:
        x, denoised = scheduler.step(networks.denoise(x, t[None], inputs), t, x, generator=generator, return_dict=False)
    images = pipe_of("lcm")(PROMPT, num_inference_steps=4, guidance_scale=8.5, generator=seeded()).images
    require_same(networks.decode(denoised), images)
    other = {**inputs, "timestep_cond": networks.guidance_embedding(2.0)[None]}
    assert not torch.allclose(networks.denoise(x, t[None], inputs), networks.denoise(x, t[None], other))


@pytest.mark.parametrize("name", ["sd_img2img", "sdxl_img2img"])
def test_image_to_image(networks_of: NetworksOf, pipe_of: PipeOf, name: str) -> None:
    networks, generator = networks_of(name), seeded()
    scheduler = scheduler_of(networks, 6)
    timesteps = scheduler.timesteps[3:]
    scheduler.set_begin_index(3)
    latent = encoded(networks, picture(), generator)
    x = scheduler.add_noise(latent, torch.randn(latent.shape, generator=generator), timesteps[:1])
    x = sample(networks, scheduler, x, generator, *conditions(networks, NEGATIVE), timesteps=timesteps)
    call = {"image": picture(), "strength": 0.5, "num_inference_steps": 6, "guidance_scale": 7.5}
    images = pipe_of(name)(PROMPT, negative_prompt=NEGATIVE, **call, generator=seeded()).images
    require_same(networks.decode(x), images)


def test_inpainting_that_blends(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    networks, generator = networks_of("inpaint"), seeded()
    scheduler = scheduler_of(networks, 5)
    clean = encoded(networks, picture(), generator)
    noise = torch.randn(clean.shape, generator=generator)
    painted, x = mask()[..., ::2, ::2], noise
    inputs, away = conditions(networks, NEGATIVE)
    for t, following in zip(scheduler.timesteps, [*scheduler.timesteps[1:], None], strict=True):
        x = scheduler.step(guided(networks, x, t[None], inputs, away, 7.5), t, x).prev_sample
        kept = clean if following is None else scheduler.add_noise(clean, noise, following[None])
        x = (1 - painted) * kept + painted * x
    call = {"image": picture(), "mask_image": mask(), "strength": 1.0, "height": 16, "width": 16}
    pipe = pipe_of("inpaint")
    images = pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, **call, generator=seeded()).images
    require_same(networks.decode(x), images)


def test_inpainting_with_nine_channels(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    networks, generator = networks_of("inpaint9"), seeded()
    x = initial(networks, generator)
    hidden = torch.where(mask() < 0.5, 2 * picture() - 1, torch.zeros(())) / 2 + 0.5
    extra = {"mask": mask()[..., ::2, ::2], "masked_latent": encoded(networks, hidden, generator)}
    inputs, away = conditions(networks, NEGATIVE)
    x = sample(networks, scheduler_of(networks, 5), x, generator, {**inputs, **extra}, {**away, **extra})
    call = {"image": picture(), "mask_image": mask(), "strength": 1.0, "height": 16, "width": 16}
    pipe = pipe_of("inpaint9")
    images = pipe(PROMPT, negative_prompt=NEGATIVE, num_inference_steps=5, **call, generator=seeded()).images
    require_same(networks.decode(x), images)


def test_control(networks_of: NetworksOf, pipe_of: PipeOf) -> None:
    networks, generator = networks_of("control"), seeded()
    hint = {"hint": picture(4), "hint_scale": torch.tensor([0.8])}
    inputs, away = conditions(networks, NEGATIVE)
    x = initial(networks, generator)
    x = sample(networks, scheduler_of(networks, 5), x, generator, {**inputs, **hint}, {**away, **hint})
    call = {"image": picture(4), "controlnet_conditioning_scale": 0.8, "num_inference_steps": 5}
    images = pipe_of("control")(PROMPT, negative_prompt=NEGATIVE, **call, generator=seeded()).images
    require_same(networks.decode(x), images)
