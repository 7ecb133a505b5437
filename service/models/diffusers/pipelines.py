"""Which pipelines, components and schedulers are served: everything that is not named here is rejected."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["pixel", "text", "xl"]

#: The pipelines by class, and which networks they have.
PIPELINES: dict[str, Kind] = {
    "DDPMPipeline": "pixel",
    "DDIMPipeline": "pixel",
    "StableDiffusionPipeline": "text",
    "StableDiffusionImg2ImgPipeline": "text",
    "StableDiffusionInpaintPipeline": "text",
    "StableDiffusionControlNetPipeline": "text",
    "LatentConsistencyModelPipeline": "text",
    "LatentConsistencyModelImg2ImgPipeline": "text",
    "StableDiffusionXLPipeline": "xl",
    "StableDiffusionXLImg2ImgPipeline": "xl",
}
#: The components that a kind of pipeline needs. `controlnet` is optional beside them.
COMPONENTS: dict[Kind, tuple[str, ...]] = {
    "pixel": ("unet", "scheduler"),
    "text": ("unet", "scheduler", "vae", "text_encoder", "tokenizer"),
    "xl": ("unet", "scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
}
#: Components that are not loaded: pictures are not checked, and there are no picture prompts.
IGNORED = ("safety_checker", "feature_extractor", "image_encoder")
#: The classes of the components, by the name of the library that has them.
LIBRARIES = {
    "UNet2DModel": "diffusers",
    "UNet2DConditionModel": "diffusers",
    "AutoencoderKL": "diffusers",
    "ControlNetModel": "diffusers",
    "CLIPTextModel": "transformers",
    "CLIPTextModelWithProjection": "transformers",
    "CLIPTokenizer": "transformers",
    "CLIPTokenizerFast": "transformers",
}
CLASSES = {
    "vae": ("AutoencoderKL",),
    "controlnet": ("ControlNetModel",),
    "text_encoder": ("CLIPTextModel",),
    "text_encoder_2": ("CLIPTextModelWithProjection",),
    "tokenizer": ("CLIPTokenizer", "CLIPTokenizerFast"),
    "tokenizer_2": ("CLIPTokenizer", "CLIPTokenizerFast"),
}


@dataclass(frozen=True)
class Solver:
    """The solver that serves a scheduler; `exact` unless the scheduler's own steps differ."""

    name: str
    exact: bool = True


SCHEDULERS = {
    "DDPMScheduler": Solver("ddpm"),
    "DDIMScheduler": Solver("ddim"),
    "DPMSolverMultistepScheduler": Solver("dpmpp_2m"),
    "EulerDiscreteScheduler": Solver("euler"),
    "EulerAncestralDiscreteScheduler": Solver("euler_ancestral"),
    "LCMScheduler": Solver("lcm"),
    "PNDMScheduler": Solver("dpmpp_2m", exact=False),
    "UniPCMultistepScheduler": Solver("dpmpp_2m", exact=False),
    "DPMSolverSinglestepScheduler": Solver("dpmpp_2m", exact=False),
    "DEISMultistepScheduler": Solver("dpmpp_2m", exact=False),
    "LMSDiscreteScheduler": Solver("dpmpp_2m", exact=False),
    "HeunDiscreteScheduler": Solver("dpmpp_2m", exact=False),
}
#: The steps and the guidance scale of a pipeline's call that names none.
CALLS: dict[str, tuple[int, float]] = {
    "DDPMPipeline": (1000, 1.0),
    "DDIMPipeline": (50, 1.0),
    "LatentConsistencyModelPipeline": (4, 8.5),
    "LatentConsistencyModelImg2ImgPipeline": (4, 8.5),
    "StableDiffusionXLPipeline": (50, 5.0),
    "StableDiffusionXLImg2ImgPipeline": (50, 5.0),
}
TEXT_CALL = (50, 7.5)


def classes_of(component: str, kind: Kind) -> tuple[str, ...]:
    """The classes that `component` may have in a pipeline of `kind`."""
    if component == "unet":
        return ("UNet2DModel",) if kind == "pixel" else ("UNet2DConditionModel",)
    return tuple(SCHEDULERS) if component == "scheduler" else CLASSES[component]
