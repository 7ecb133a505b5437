"""What a model can do, and which fields of a request it supports.

This is the only place that ties fields to models: requests are checked and the forms of GET /models are built from it.
`schemas` has the shape and the static bounds of fields, `resolve` the bounds that depend on the model or the settings.
"""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from service.api.request.schemas import TaskName
from service.engine.model import Model

Ability = Literal[
    "generate",
    "text_to_image",
    "image_to_image",
    "inpaint",
    "control",
    "variations",
    "encode",
    "invert",
    "latent_map",
    "interpolate",
    "blend_classes",
]


def denoises(model: Model) -> bool:
    """Whether it generates pictures in solver steps."""
    return model.denoise is not None


def encodes(model: Model) -> bool:
    """Whether it has an encoder."""
    return model.encode is not None


def reads_prompts(model: Model) -> bool:
    """Whether its pictures are of a prompt."""
    return model.manifest.reads_prompts


def paints_in(model: Model) -> bool:
    """Whether it only redraws a part of a picture."""
    return bool(model.manifest.conditioning and model.manifest.conditioning.paints_in)


def starts_from_pictures(model: Model) -> bool:
    """Whether an uploaded picture can become its latent: by its encoder, or directly where latents are pictures."""
    if model.manifest.conditioning is not None:
        return _has_task(model, "image-to-image", "inpaint")
    return encodes(model) or (denoises(model) and model.manifest.latent_shape == model.manifest.image_shape)


def inverts(model: Model) -> bool:
    """Whether the noise of an uploaded picture can be found: not by diffusers' solvers, nor for a prompt."""
    return denoises(model) and starts_from_pictures(model) and model.manifest.conditioning is None


def _has_task(model: Model, *tasks: str) -> bool:
    conditioning = model.manifest.conditioning
    return conditioning is not None and not set(tasks).isdisjoint(conditioning.tasks)


def _is_guided(model: Model) -> bool:
    return model.manifest.conditioning is None or model.manifest.conditioning.guidance != "none"


def _guides_classes(model: Model) -> bool:
    return _is_guided(model) and not reads_prompts(model)


def _draws(model: Model) -> bool:
    return "generate" in model.manifest.capabilities


def _inpaints(model: Model) -> bool:
    """A mask needs latents with the two dimensions of the picture."""
    return denoises(model) and starts_from_pictures(model) and len(model.manifest.latent_shape) == 3


_ABILITIES: Mapping[Ability, Callable[[Model], bool]] = {
    "generate": lambda model: _draws(model) and not paints_in(model),
    "text_to_image": lambda model: _has_task(model, "text-to-image"),
    "image_to_image": lambda model: denoises(model) and starts_from_pictures(model) and not paints_in(model),
    "inpaint": _inpaints,
    "control": lambda model: _has_task(model, "control"),
    "variations": lambda model: encodes(model) and not denoises(model),
    "encode": encodes,
    "invert": inverts,
    "latent_map": lambda model: model.latent_map is not None,
    "interpolate": lambda model: "interpolate" in model.manifest.capabilities,
    "blend_classes": lambda model: denoises(model) and bool(model.manifest.class_names),
}


def abilities(model: Model) -> tuple[Ability, ...]:
    """Everything that ``model`` can do."""
    return tuple(name for name, has in _ABILITIES.items() if has(model))


def takes_steps(model: Model, task: TaskName) -> bool:
    """Whether the pictures of ``task`` take solver steps; those of an encoder's codes and of a map are only decoded."""
    return denoises(model) and not (task == "latent_map" or (task == "encode" and encodes(model)))


class Need(NamedTuple):
    """What a field requires of a model, and the message for a model that does not meet it.

    In the message, ``{classes}`` points a model with classes to class_label.
    """

    met: Callable[[Model], bool]
    message: str = "is not supported by {name} (family {family})"


_NO_STEPS = "is not supported by {name}: it takes no solver steps for this task"
#: Fields that need solver steps.
_STEP_FIELDS = frozenset(
    {"steps", "solver", "eta", "guidance_scale", "negative_class", "preview_every", "preview_kind"}
)

_CONTROLLED = Need(_ABILITIES["control"], "is not supported by {name}: it reads no control pictures")
_SIZED = Need(lambda model: model.manifest.has_sizes, "is not supported by {name}: its pictures have one size")

#: By field. Every model supports a field that is neither here nor above.
_NEEDS: Mapping[str, Need] = {
    "prompt": Need(reads_prompts, "is not supported by {name}: it reads no text{classes}"),
    "negative_prompt": Need(
        lambda model: bool(model.manifest.conditioning and model.manifest.conditioning.negative_prompt),
        "is not supported by {name}: its guidance reads no text",
    ),
    "class_label": Need(
        lambda model: not reads_prompts(model),
        "is not supported by {name}: it has no classes; describe it in prompt",
    ),
    "width": _SIZED,
    "height": _SIZED,
    "lora": Need(lambda model: bool(model.adapters), "is not supported by {name}: its folder has no LoRAs"),
    "control": _CONTROLLED,
    "control_image": _CONTROLLED,
    "control_scale": _CONTROLLED,
    "control_start": _CONTROLLED,
    "control_end": _CONTROLLED,
    "guidance_scale": Need(_is_guided, "is not supported by {name}: it has no guidance"),
    "negative_class": Need(
        _guides_classes, "is not supported by {name}: it has no guidance by class; with prompts, use negative_prompt"
    ),
    "truncation": Need(lambda model: _draws(model) and not denoises(model)),
    "image": Need(starts_from_pictures, "is not supported by {name}: it cannot encode pictures"),
    "strength": Need(lambda model: denoises(model) and starts_from_pictures(model)),
    "mask": Need(_inpaints),
    "mask_invert": Need(_inpaints),
    "spread": Need(_ABILITIES["variations"]),
    "point": Need(_ABILITIES["latent_map"], "is not supported by {name}: it has no latent map"),
}


def unsupported(model: Model, field: str, task: TaskName) -> str | None:
    """Why ``model`` does not support ``field`` in ``task``; None where it does."""
    if field in _STEP_FIELDS and not takes_steps(model, task):
        return _NO_STEPS.format(name=model.name)
    need = _NEEDS.get(field)
    if need is None or need.met(model):
        return None
    classes = " (did you mean class_label?)" if model.manifest.class_names else ""
    return need.message.format(name=model.name, family=model.manifest.family, classes=classes)
