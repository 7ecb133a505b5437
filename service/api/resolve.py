"""A request against its model: defaults filled in, names looked up, bounds and capabilities checked."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from pydantic import JsonValue

from service.api.schemas import GenerateRequest, InterpolateRequest, Params
from service.contract.manifest import Defaults, SolverName
from service.engine.model import Model
from service.errors import FieldProblem, InvalidField, UnknownVersion
from service.images import tile_shape
from service.sampling.solvers import Plan
from service.settings import Settings

MEGAPIXEL = 1_000_000

#: The class_label that asks for the model's unconditional pictures.
NO_CLASS = "none"


class Resolved(NamedTuple):
    """What a request means for its model.

    ``labels``: one for all pictures or one for each, where None leaves the class to the seed. ``params``: what to tell.
    """

    model: Model
    labels: Sequence[int | None]
    guidance_scale: float
    plan: Plan
    params: Params

    def label_of(self, seed: int, index: int = 0) -> int:
        """The class of picture ``index``, whose seed is ``seed``: the one asked for, or all of the model's in turn."""
        label = self.labels[index if len(self.labels) > 1 else 0]
        classes = self.model.manifest.null_label
        return seed % classes if label is None and classes else label or 0


def resolve(request: GenerateRequest | InterpolateRequest, model: Model, settings: Settings) -> Resolved:
    """Check ``request`` against ``model``; raises InvalidField with everything that is wrong with it."""
    capability = "generate" if isinstance(request, GenerateRequest) else "interpolate"
    if capability not in model.manifest.capabilities:
        raise InvalidField.of("model", f"{model.name} cannot {capability}", ", ".join(model.manifest.capabilities))
    if request.version is not None and request.version != model.manifest.version:
        raise UnknownVersion(model.name, model.manifest.version)
    labels: Sequence[int | None] = (None,)
    problems = _count_problems(request, model, settings)
    asked = request.class_label if isinstance(request.class_label, list) else [request.class_label]
    try:
        labels = [_label(each, model.manifest.class_names) for each in asked]
    except LookupError:
        names = ", ".join(f"{index} {name}" for index, name in enumerate(model.manifest.class_names))
        allowed = f"{names}, {NO_CLASS}" if names else NO_CLASS
        problems.append(FieldProblem("#/class_label", f"{model.name} has no such class", allowed))
    problems += _step_problems(request, model, labels, settings)
    if problems:
        raise InvalidField(problems)
    return _resolved(request, model, labels, settings)


def _resolved(
    request: GenerateRequest | InterpolateRequest, model: Model, labels: Sequence[int | None], settings: Settings
) -> Resolved:
    names, defaults = model.manifest.class_names, model.manifest.defaults
    guidance_scale = request.guidance_scale
    if guidance_scale is None:
        guidance_scale = defaults.guidance_scale if defaults and _have_classes(labels, names) else 1.0
    solver = request.solver or (_default_solver(request, defaults) if defaults else None)
    plan = model.plan(solver, request.steps or (min(defaults.steps, settings.max_steps) if defaults else None))
    told: list[JsonValue] = [None if label is None else [*names, NO_CLASS][label] for label in labels]
    params: Params = {"class_label": told if isinstance(request.class_label, list) else told[0]}
    if defaults is not None:
        params |= {
            "steps": len(plan),
            "solver": solver,
            "guidance_scale": guidance_scale,
        }
    return Resolved(model, labels, guidance_scale, plan, params)


def _have_classes(labels: Sequence[int | None], names: tuple[str, ...]) -> bool:
    return bool(names) and all(label is None or label < len(names) for label in labels)


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
    field, count = _count_field(request), request.count
    if isinstance(request, GenerateRequest) and (problem := _list_problem(request)):
        return [problem]
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


def _count_field(request: GenerateRequest | InterpolateRequest) -> str:
    if isinstance(request, InterpolateRequest):
        return "frames"
    return "n" if request.seeds is None else "seeds"


def _list_problem(request: GenerateRequest) -> FieldProblem | None:
    """What is wrong between ``n`` and the lists with a value for each picture."""
    if request.seeds is not None:
        if request.seed is not None:
            return FieldProblem("#/seeds", "says the seed of each picture, and so does seed", "one of the two")
        if "n" in request.model_fields_set and request.n != len(request.seeds):
            return FieldProblem("#/n", f"is not the number of seeds, {len(request.seeds)}", "leave it out")
    if isinstance(request.class_label, list) and len(request.class_label) != request.count:
        message = f"{len(request.class_label)} classes are not one for each of {request.count} pictures"
        return FieldProblem("#/class_label", message, f"one class, or a list of {request.count}")
    return None


def _step_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, labels: Sequence[int | None], settings: Settings
) -> list[FieldProblem]:
    if not model.manifest.denoises:
        given = [
            name
            for name in ("steps", "solver", "guidance_scale", "preview_every", "preview_kind")
            if getattr(request, name) is not None
        ]
        return [
            FieldProblem(f"#/{name}", f"means nothing to {model.name}, a {model.manifest.family}", "leave it out")
            for name in given
        ]
    problems = []
    most = min(model.max_steps, settings.max_steps)
    if request.steps is not None and request.steps > most:
        problems.append(FieldProblem("#/steps", f"{request.steps} is too many for {model.name}", f"1 to {most}"))
    if request.guidance_scale not in (None, 1.0) and not _have_classes(labels, model.manifest.class_names):
        message = "guides towards a class, and there is none"
        problems.append(FieldProblem("#/guidance_scale", message, "leave it out, or ask for a class"))
    return problems
