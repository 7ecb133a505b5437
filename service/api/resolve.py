"""A request against its model: defaults filled in, names looked up, bounds and capabilities checked."""

import math
from typing import NamedTuple

from service.api.schemas import GenerateRequest, InterpolateRequest
from service.contract.manifest import Defaults, SolverName
from service.engine.model import Model
from service.errors import FieldProblem, InvalidField
from service.images import tile_shape
from service.sampling.solvers import Plan
from service.settings import Settings

MEGAPIXEL = 1_000_000

#: The class_label that asks for the model's unconditional pictures.
NO_CLASS = "none"


class Resolved(NamedTuple):
    """What a request means for its model. ``label`` None leaves the class to each seed; ``params`` is what to tell."""

    model: Model
    label: int | None
    guidance_scale: float
    plan: Plan
    params: dict[str, int | float | str | None]

    def label_of(self, seed: int) -> int:
        """The class of the picture of ``seed``: the one asked for, or all of the model's in turn."""
        classes = self.model.manifest.null_label
        return seed % classes if self.label is None and classes else self.label or 0


def resolve(request: GenerateRequest | InterpolateRequest, model: Model, settings: Settings) -> Resolved:
    """Check ``request`` against ``model``; raises InvalidField with everything that is wrong with it."""
    capability = "generate" if isinstance(request, GenerateRequest) else "interpolate"
    if capability not in model.manifest.capabilities:
        raise InvalidField.of("model", f"{model.name} cannot {capability}", ", ".join(model.manifest.capabilities))
    label, problems = None, _count_problems(request, model, settings)
    try:
        label = _label(request.class_label, model.manifest.class_names)
    except LookupError:
        names = ", ".join(f"{index} {name}" for index, name in enumerate(model.manifest.class_names))
        allowed = f"{names}, {NO_CLASS}" if names else NO_CLASS
        problems.append(FieldProblem("#/class_label", f"{model.name} has no such class", allowed))
    problems += _step_problems(request, model, label, settings)
    if problems:
        raise InvalidField(problems)
    return _resolved(request, model, label, settings)


def _resolved(
    request: GenerateRequest | InterpolateRequest, model: Model, label: int | None, settings: Settings
) -> Resolved:
    names, defaults = model.manifest.class_names, model.manifest.defaults
    guidance_scale = request.guidance_scale
    if guidance_scale is None:
        guidance_scale = defaults.guidance_scale if defaults and _has_class(label, names) else 1.0
    solver = request.solver or (_default_solver(request, defaults) if defaults else None)
    plan = model.plan(solver, request.steps or (min(defaults.steps, settings.max_steps) if defaults else None))
    params: dict[str, int | float | str | None] = {"class_label": None if label is None else [*names, NO_CLASS][label]}
    if defaults is not None:
        params |= {
            "steps": len(plan),
            "solver": solver,
            "guidance_scale": guidance_scale,
        }
    return Resolved(model, label, guidance_scale, plan, params)


def _has_class(label: int | None, names: tuple[str, ...]) -> bool:
    return bool(names) and (label is None or label < len(names))


def _default_solver(request: GenerateRequest | InterpolateRequest, defaults: Defaults) -> SolverName:
    """The manifest's, but for a path a deterministic one: fresh noise in each frame would not be a path."""
    return "ddim" if isinstance(request, InterpolateRequest) and defaults.solver == "ddpm" else defaults.solver


def _label(asked: int | str | None, names: tuple[str, ...]) -> int | None:
    """The class index, the number of classes for "no class", or None where it is left open. Raises LookupError."""
    if asked is None:
        return None
    if isinstance(asked, str):
        folded = [name.casefold() for name in (*names, NO_CLASS)]
        if asked.casefold() in folded:
            return folded.index(asked.casefold())
        if not asked.isascii() or not asked.isdigit():
            raise LookupError(asked)
        asked = int(asked)
    if not 0 <= asked < len(names):
        raise LookupError(asked)
    return asked


def _count_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, settings: Settings
) -> list[FieldProblem]:
    field, count = ("n", request.n) if isinstance(request, GenerateRequest) else ("frames", request.frames)
    if count > settings.max_images:
        message = f"{count} is more than this service makes at once"
        return [FieldProblem(f"#/{field}", message, f"up to {settings.max_images}")]
    _, height, width = model.manifest.image_shape
    rows, columns = tile_shape(count, height, width, request.columns)
    if rows * columns * request.scale**2 > settings.max_megapixels * MEGAPIXEL:
        most = math.isqrt(int(settings.max_megapixels * MEGAPIXEL) // (rows * columns))
        message = f"{count} pictures at scale {request.scale} are more than {settings.max_megapixels:g} megapixels"
        return [FieldProblem("#/scale", message, f"up to {most} for {count} pictures")]
    return []


def _step_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, label: int | None, settings: Settings
) -> list[FieldProblem]:
    if not model.manifest.denoises:
        given = [name for name in ("steps", "solver", "guidance_scale") if getattr(request, name) is not None]
        return [
            FieldProblem(f"#/{name}", f"means nothing to {model.name}, a {model.manifest.family}", "leave it out")
            for name in given
        ]
    problems = []
    most = min(model.max_steps, settings.max_steps)
    if request.steps is not None and request.steps > most:
        problems.append(FieldProblem("#/steps", f"{request.steps} is too many for {model.name}", f"1 to {most}"))
    if request.guidance_scale not in (None, 1.0) and not _has_class(label, model.manifest.class_names):
        message = "guides towards a class, and there is none"
        problems.append(FieldProblem("#/guidance_scale", message, "leave it out, or ask for a class"))
    return problems
