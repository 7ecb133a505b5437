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
    "image_to_image",
    "inpaint",
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


def starts_from_pictures(model: Model) -> bool:
    """Whether an uploaded picture can become its latent: by its encoder, or directly where latents are pictures."""
    return encodes(model) or (denoises(model) and model.manifest.latent_shape == model.manifest.image_shape)


def _draws(model: Model) -> bool:
    return "generate" in model.manifest.capabilities


def _inpaints(model: Model) -> bool:
    """A mask needs latents with the two dimensions of the picture."""
    return denoises(model) and starts_from_pictures(model) and len(model.manifest.latent_shape) == 3


_ABILITIES: Mapping[Ability, Callable[[Model], bool]] = {
    "generate": _draws,
    "image_to_image": lambda model: denoises(model) and starts_from_pictures(model),
    "inpaint": _inpaints,
    "variations": lambda model: encodes(model) and not denoises(model),
    "encode": encodes,
    "invert": lambda model: model.manifest.noise_schedule is not None and starts_from_pictures(model),
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
    """What a field requires of a model, and the message for a model that does not meet it."""

    met: Callable[[Model], bool]
    message: str = "is not supported by {name} (family {family})"


_NO_STEPS = "is not supported by {name}: it takes no solver steps for this task"
#: Fields that need solver steps.
_STEP_FIELDS = frozenset(
    {"steps", "solver", "eta", "guidance_scale", "negative_class", "preview_every", "preview_kind"}
)

#: By field. Every model supports a field that is neither here nor above.
_NEEDS: Mapping[str, Need] = {
    "truncation": Need(lambda model: _draws(model) and not denoises(model)),
    "image": Need(starts_from_pictures, "is not supported by {name}: it cannot encode pictures"),
    "strength": Need(_ABILITIES["image_to_image"]),
    "mask": Need(_inpaints),
    "mask_invert": Need(_inpaints),
    "spread": Need(_ABILITIES["variations"]),
    "point": Need(_ABILITIES["latent_map"], "is not supported by {name}: it has no latent map"),
}


def unsupported(model: Model, field: str, task: TaskName) -> str | None:
    """Why ``model`` does not support ``field`` in ``task``; None where it does."""
    if field in _STEP_FIELDS:
        return None if takes_steps(model, task) else _NO_STEPS.format(name=model.name)
    need = _NEEDS.get(field)
    if need is None or need.met(model):
        return None
    return need.message.format(name=model.name, family=model.manifest.family)
