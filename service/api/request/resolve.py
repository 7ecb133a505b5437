"""A request against its model: defaults filled in, names looked up, bounds and capabilities checked."""

from collections.abc import Sequence
from typing import NamedTuple

from pydantic import JsonValue

from service.api.request.capabilities import denoises, missing
from service.api.request.layout import Layout, layout_of, layout_params
from service.api.request.schemas import GenerateRequest, InterpolateRequest, Params, Task
from service.api.request.start_fields import list_problem, start_problems, strength_of
from service.contract.classes import NO_CLASS, ClassNotFound, has_numeric_names, label_of
from service.contract.manifest import Defaults, Manifest, SolverName
from service.engine.model import Model
from service.engine.rows import RowSpec
from service.errors import FieldProblem, InvalidField, UnknownVersion
from service.sampling.solvers import EMPTY_PLAN, Plan
from service.settings import Settings

#: Classes that an error lists at most: the answer must not grow with the model.
MOST_LISTED = 50


class Resolved(NamedTuple):
    """What a request means for its model, whose class for "no class" is ``null_label``.

    ``labels``: one for all pictures or one for each, where None leaves the class to the seed. ``negative_label``: what
    guidance leads away from; None, no class. ``params``: what to tell. ``layout``: how the answer shows the pictures.
    """

    null_label: int
    labels: Sequence[int | None]
    guidance_scale: float
    negative_label: int | None
    plan: Plan
    params: Params
    layout: Layout

    def label_of(self, seed: int, index: int = 0) -> int:
        """The class of picture ``index``, whose seed is ``seed``: the one asked for, or all of the model's in turn."""
        label = self.labels[index if len(self.labels) > 1 else 0]
        return seed % self.null_label if label is None and self.null_label else label or 0

    def row(self, seed: int, index: int = 0) -> RowSpec:
        """Picture ``index``, from the noise of ``seed``."""
        label = self.label_of(seed, index)
        return RowSpec(
            seed, label, self.guidance_scale, self.plan, negative_label=self.negative_label, film=self.layout.film
        )


def resolve(request: GenerateRequest | InterpolateRequest, model: Model, media: str, settings: Settings) -> Resolved:
    """Check ``request`` against ``model``; raises InvalidField with everything that is wrong with it."""
    _check_model(request, model)
    problems = meaning_problems(request, model) + _count_problems(request, settings)
    if isinstance(request, GenerateRequest):
        problems += start_problems(request, model)
    asked = request.class_label if isinstance(request.class_label, list) else [request.class_label]
    labels = labels_of(asked, model, "class_label", problems)
    if isinstance(request, GenerateRequest) and request.begins:
        labels = [model.manifest.null_label if label is None else label for label in labels]
    negative = labels_of([request.negative_class], model, "negative_class", problems)[0]
    problems += _step_problems(request, model, labels, settings)
    if problems:
        raise InvalidField(_first_of_each(problems))
    return _resolved(request, model, labels, negative, media, settings)


def check_version(version: str | None, model: Model) -> None:
    """Raise UnknownVersion where ``model`` is served in another one."""
    if version is not None and version != model.manifest.version:
        raise UnknownVersion(model.name, model.manifest.version)


def meaning_problems(request: Task, model: Model) -> list[FieldProblem]:
    """The fields of ``request`` that mean nothing to ``model``."""
    problems = []
    for name in sorted(request.model_fields_set):
        says = missing(model, name)
        if says is not None and getattr(request, name) is not None and getattr(request, name) is not False:
            problems.append(FieldProblem(f"#/{name}", says, "leave it out"))
    if request.layout == "film":
        if not denoises(model):
            problems.append(FieldProblem("#/layout", f"{model.name} takes no steps to film", "any but film"))
        elif request.preview_every == 0:
            problems.append(FieldProblem("#/preview_every", "0 is none, and a film has some", "1 and more"))
    return problems


def _check_model(request: GenerateRequest | InterpolateRequest, model: Model) -> None:
    capability, begins = "interpolate", False
    if isinstance(request, GenerateRequest):
        capability, begins = "generate", request.begins
    if capability not in model.manifest.capabilities and not begins:
        allowed = ", ".join(model.manifest.capabilities)
        if capability == "generate":
            allowed += "; or say what to begin from: image, latents or point"
        raise InvalidField.of("model", f"{model.name} cannot {capability}", allowed)
    check_version(request.version, model)


def _resolved(
    request: GenerateRequest | InterpolateRequest,
    model: Model,
    labels: Sequence[int | None],
    negative: int | None,
    media: str,
    settings: Settings,
) -> Resolved:
    names, defaults = model.manifest.class_names, model.manifest.defaults
    guidance_scale = request.guidance_scale
    if guidance_scale is None:
        guidance_scale = defaults.guidance_scale if defaults and _have_classes(labels, names) else 1.0
    if negative is not None and guidance_scale == 1:
        raise InvalidField.of("negative_class", "is what guidance leads away from, and there is none", "guidance_scale")
    told: list[JsonValue] = [None if label is None else [*names, NO_CLASS][label] for label in labels]
    params: Params = {"class_label": told if isinstance(request.class_label, list) else told[0]}
    plan = EMPTY_PLAN
    if defaults is not None:
        solver = request.solver or _default_solver(request, defaults)
        steps = request.steps or min(defaults.steps, settings.max_steps)
        eta, strength = 0.0, 1.0
        if isinstance(request, GenerateRequest):
            eta, strength = request.eta or 0.0, strength_of(request)
        plan = model.plan(solver, steps, eta, strength)
        params |= {"steps": steps, "solver": solver, "guidance_scale": guidance_scale}
        if eta:
            params["eta"] = eta
        if negative is not None:
            params["negative_class"] = [*names, NO_CLASS][negative]
    # The picture of a point is decoded, in the one step of `initial_latents.decoded`.
    at_point = isinstance(request, GenerateRequest) and request.point is not None
    layout = layout_of(request, media, model.manifest.image_shape, 1 if at_point else plan.steps, settings)
    params |= layout_params(request, layout)
    return Resolved(model.manifest.null_label, labels, guidance_scale, negative, plan, params, layout)


def _have_classes(labels: Sequence[int | None], names: tuple[str, ...]) -> bool:
    return bool(names) and all(label is None or label < len(names) for label in labels)


def _default_solver(request: GenerateRequest | InterpolateRequest, defaults: Defaults) -> SolverName:
    """The manifest's, but for a path a deterministic one, and for pictures the one that inversion is of."""
    if not isinstance(request, InterpolateRequest):
        return defaults.solver
    inverted = any(point.image is not None for point in request.key_points)
    return "ddim" if inverted or defaults.solver in ("ddpm", "consistency") else defaults.solver


def labels_of(
    asked: Sequence[int | str | None], model: Model, field: str, problems: list[FieldProblem]
) -> Sequence[int | None]:
    """The classes that ``field`` names; where it names none of the model's, a problem and what leaves it open."""
    names = model.manifest.class_names
    try:
        return [None if each is None else label_of(each, names) for each in asked]
    except ClassNotFound as failure:
        problems.append(class_problem(field, model.manifest, failure))
        return [None]


def class_problem(field: str, manifest: Manifest, failure: ClassNotFound) -> FieldProblem:
    """The error of a ``field`` that means no class of the model, or several."""
    if failure.candidates:
        message = "means more than one class; write one of them as it is here"
        return FieldProblem(f"#/{field}", message, _listed(failure.candidates, manifest))
    return FieldProblem(f"#/{field}", f"{manifest.name} has no such class", class_list(manifest))


def class_list(manifest: Manifest) -> str:
    """What a client may send for a class, for people: numbers too where they are indices."""
    count = len(manifest.class_names)
    shown = _listed(range(min(count, MOST_LISTED)), manifest)
    more = f"and {count - MOST_LISTED} more that GET /models/{manifest.name} lists" if count > MOST_LISTED else ""
    return ", ".join(part for part in (shown, more, NO_CLASS) if part)


def _listed(labels: Sequence[int], manifest: Manifest) -> str:
    names = manifest.class_names
    if has_numeric_names(names):
        return ", ".join([*names, NO_CLASS][label] for label in labels)
    return ", ".join(f"{label} {names[label]}" if label < len(names) else NO_CLASS for label in labels)


def _first_of_each(problems: Sequence[FieldProblem]) -> Sequence[FieldProblem]:
    """One problem a field: what follows from another is not worth telling."""
    return list({problem.pointer: problem for problem in reversed(problems)}.values())[::-1]


def _count_problems(request: GenerateRequest | InterpolateRequest, settings: Settings) -> list[FieldProblem]:
    if isinstance(request, GenerateRequest) and (problem := list_problem(request)):
        return [problem]
    if request.count > settings.max_images:
        message = f"{request.count} is more than this service makes at once"
        return [FieldProblem(f"#/{_count_field(request)}", message, f"up to {settings.max_images}")]
    return []


def _count_field(request: GenerateRequest | InterpolateRequest) -> str:
    if isinstance(request, InterpolateRequest):
        return "frames"
    if request.seeds is not None:
        return "seeds"
    return "n" if request.latents is None or "n" in request.model_fields_set else "latents"


def _step_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, labels: Sequence[int | None], settings: Settings
) -> list[FieldProblem]:
    problems: list[FieldProblem] = []
    if not model.manifest.denoises:
        return problems
    most = min(model.max_steps, settings.max_steps)
    if request.steps is not None and request.steps > most:
        problems.append(FieldProblem("#/steps", f"{request.steps} is too many for {model.name}", f"1 to {most}"))
    if request.guidance_scale not in (None, 1.0) and not _have_classes(labels, model.manifest.class_names):
        message = "guides towards a class, and there is none"
        problems.append(FieldProblem("#/guidance_scale", message, "leave it out, or ask for a class"))
    return problems
