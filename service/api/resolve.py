"""A request against its model: defaults filled in, names looked up, bounds and capabilities checked."""

from dataclasses import dataclass

from service.api.schemas import GenerateRequest, InterpolateRequest
from service.contract.manifest import Defaults, SolverName
from service.engine.model import Model
from service.errors import FieldProblem, InvalidField
from service.sampling.solvers import Plan
from service.settings import Settings

MEGAPIXEL = 1_000_000


@dataclass(frozen=True)
class Resolved:
    """What a request means for its model. ``class_name`` is None for "no class"; ``params`` is what to tell of it."""

    label: int
    class_name: str | None
    guidance_scale: float
    plan: Plan
    params: dict[str, int | float | str | None]


def resolve(request: GenerateRequest | InterpolateRequest, model: Model, settings: Settings) -> Resolved:
    """Check ``request`` against ``model``; raises InvalidField with everything that is wrong with it."""
    problems = [*_count_problems(request, model, settings), *_step_problems(request, model, settings)]
    label = _label(request.class_label, model.manifest.class_names)
    if label is None:
        names = ", ".join(f"{index} {name}" for index, name in enumerate(model.manifest.class_names))
        problems.append(FieldProblem("#/class_label", f"{model.name} has no such class", names or "none: leave it out"))
    if problems or label is None:
        raise InvalidField(problems)
    return _resolved(request, model, label)


def _resolved(request: GenerateRequest | InterpolateRequest, model: Model, label: int) -> Resolved:
    names, defaults = model.manifest.class_names, model.manifest.defaults
    class_name = names[label] if label < len(names) else None
    guidance_scale = request.guidance_scale
    if guidance_scale is None:
        guidance_scale = defaults.guidance_scale if defaults and class_name is not None else 1.0
    solver = request.solver or (_default_solver(request, defaults) if defaults else None)
    plan = model.plan(solver, request.steps)
    params: dict[str, int | float | str | None] = {"class_label": class_name}
    if defaults is not None:
        params |= {
            "steps": len(plan),
            "solver": solver,
            "guidance_scale": guidance_scale,
        }
    return Resolved(label, class_name, guidance_scale, plan, params)


def _default_solver(request: GenerateRequest | InterpolateRequest, defaults: Defaults) -> SolverName:
    """The manifest's, but for a path a deterministic one: fresh noise in each frame would not be a path."""
    return "ddim" if isinstance(request, InterpolateRequest) and defaults.solver == "ddpm" else defaults.solver


def _label(asked: int | str | None, names: tuple[str, ...]) -> int | None:
    """The class index; the number of classes for "no class"; None when there is no such class."""
    if asked is None:
        return len(names)
    if isinstance(asked, str):
        folded = [name.casefold() for name in names]
        if asked.casefold() in folded:
            return folded.index(asked.casefold())
        if not asked.isascii() or not asked.isdigit():
            return None
        asked = int(asked)
    return asked if 0 <= asked < len(names) else None


def _count_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, settings: Settings
) -> list[FieldProblem]:
    field, count = ("n", request.n) if isinstance(request, GenerateRequest) else ("frames", request.frames)
    if count > settings.max_images:
        return [
            FieldProblem(
                f"#/{field}",
                f"{count} is more than this service makes at once",
                f"up to {settings.max_images}",
            )
        ]
    _, height, width = model.manifest.image_shape
    if count * height * width * request.scale**2 > settings.max_megapixels * MEGAPIXEL:
        limit = f"{field} x height x width x scale^2 up to {settings.max_megapixels:g} megapixels"
        return [FieldProblem("#/scale", f"{count} pictures at scale {request.scale} are too large an answer", limit)]
    return []


def _step_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, settings: Settings
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
    if request.guidance_scale not in (None, 1.0) and request.class_label is None:
        message = "guides towards a class, and class_label gives none"
        problems.append(FieldProblem("#/guidance_scale", message, "leave it out, or give class_label"))
    return problems
