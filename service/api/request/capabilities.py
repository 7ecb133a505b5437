"""What a model can do, and which fields of a request mean something to it."""

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

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
    """Whether its pictures take steps."""
    return model.denoise is not None


def encodes(model: Model) -> bool:
    """Whether it has an encoder."""
    return model.encode is not None


def starts_from_pictures(model: Model) -> bool:
    """Whether a picture can be brought to where its own pictures begin: through its encoder, or as it is."""
    return encodes(model) or (denoises(model) and model.manifest.latent_shape == model.manifest.image_shape)


def _draws(model: Model) -> bool:
    return "generate" in model.manifest.capabilities


def _inpaints(model: Model) -> bool:
    """A mask needs latents that are a map of the picture."""
    return denoises(model) and starts_from_pictures(model) and len(model.manifest.latent_shape) == 3


_ABILITIES: Mapping[Ability, Callable[[Model], bool]] = {
    "generate": _draws,
    "image_to_image": lambda model: denoises(model) and starts_from_pictures(model),
    "inpaint": _inpaints,
    "variations": lambda model: encodes(model) and not denoises(model),
    "encode": encodes,
    "invert": lambda model: denoises(model) and starts_from_pictures(model),
    "latent_map": lambda model: model.latent_map is not None,
    "interpolate": lambda model: "interpolate" in model.manifest.capabilities,
    "blend_classes": lambda model: denoises(model) and bool(model.manifest.class_names),
}


def abilities(model: Model) -> tuple[Ability, ...]:
    """All that ``model`` can do."""
    return tuple(name for name, has in _ABILITIES.items() if has(model))


class Need(NamedTuple):
    """What a model must be for a field to mean something to it; else what to say."""

    met: Callable[[Model], bool]
    says: str = "means nothing to {name}, a {family}"


_STEPS = Need(denoises)

#: By field; one that is not here means something to every model.
NEEDS: Mapping[str, Need] = {
    "steps": _STEPS,
    "solver": _STEPS,
    "eta": _STEPS,
    "guidance_scale": _STEPS,
    "negative_class": _STEPS,
    "preview_every": _STEPS,
    "preview_kind": _STEPS,
    "truncation": Need(lambda model: _draws(model) and not denoises(model)),
    "image": Need(starts_from_pictures, "{name}, a {family}, cannot encode a picture"),
    "strength": Need(_ABILITIES["image_to_image"]),
    "mask": Need(_inpaints),
    "mask_invert": Need(_inpaints),
    "spread": Need(_ABILITIES["variations"]),
    "point": Need(_ABILITIES["latent_map"], "{name}, a {family}, has no latent map"),
}


def missing(model: Model, field: str) -> str | None:
    """Why ``field`` means nothing to ``model``; None where it does."""
    need = NEEDS.get(field)
    if need is None or need.met(model):
        return None
    return need.says.format(name=model.name, family=model.manifest.family)
