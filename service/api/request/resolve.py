"""A request against its model: defaults filled in, class names looked up, bounds by model and settings checked."""

from collections.abc import Sequence
from typing import NamedTuple, get_args

from pydantic import JsonValue

from service.api.request.capabilities import reads_prompts, takes_steps, unsupported
from service.api.request.layout import Layout, layout_of, layout_params
from service.api.request.prompt_fields import image_shape_of, is_guided, prompt_params, prompt_problems, size_of
from service.api.request.schemas import GenerateRequest, InterpolateRequest, Params, Task
from service.api.request.start_fields import list_problem, start_problems, strength_of
from service.contract.classes import NO_CLASS, ClassNotFound, has_numeric_names, label_of
from service.contract.manifest import Defaults, DeterministicSolver, Manifest, SolverName
from service.engine.model import Model
from service.engine.rows import RowSpec, Size
from service.errors import FieldProblem, InvalidField, UnknownVersion
from service.sampling.solvers import EMPTY_PLAN, Plan
from service.settings import Settings

#: Classes that an error message lists at most.
MOST_LISTED = 50


class Resolved(NamedTuple):
    """What a request means for its model.

    ``labels``: one for all pictures or one for each; None where the seed decides. ``null_label``: the label of "no
    class". ``negative_label``: the class that guidance leads away from; None for "no class". ``params``: the fields as
    the response reports them. ``size``: None for the model's own.
    """

    null_label: int
    labels: Sequence[int | None]
    guidance_scale: float
    negative_label: int | None
    plan: Plan
    params: Params
    layout: Layout
    size: Size | None = None

    def label_of(self, seed: int, index: int = 0) -> int:
        """The class of picture ``index``: the one requested, else the model's classes in turn by ``seed``."""
        label = self.labels[index if len(self.labels) > 1 else 0]
        return seed % self.null_label if label is None and self.null_label else label or 0

    def row(self, seed: int, index: int = 0) -> RowSpec:
        """The row of picture ``index``, which starts from the noise of ``seed``."""
        label, negative, film = self.label_of(seed, index), self.negative_label, self.layout.film
        return RowSpec(seed, label, self.guidance_scale, self.plan, negative_label=negative, film=film, size=self.size)


def resolve(request: GenerateRequest | InterpolateRequest, model: Model, media: str, settings: Settings) -> Resolved:
    """``request`` for ``model``, to be answered as ``media``. Raises InvalidField with all problems, UnknownVersion."""
    _check_model(request, model)
    problems = field_problems(request, model) + _count_problems(request, settings)
    if isinstance(request, GenerateRequest):
        problems += start_problems(request, model)
    problems += prompt_problems(request, model, _default_scale(request, model))
    classes = request.class_label if isinstance(request.class_label, list) else [request.class_label]
    labels = labels_of(classes, model.manifest, "class_label", problems)
    if isinstance(request, GenerateRequest) and request.has_start and not model.manifest.needs_class:
        labels = [model.manifest.null_label if label is None else label for label in labels]
    negative = labels_of([request.negative_class], model.manifest, "negative_class", problems)[0]
    problems += step_problems(request, model, settings) + _guidance_problems(request, model, labels)
    if problems:
        raise InvalidField(first_of_each(problems))
    return _resolved(request, model, labels, negative, media, settings)


def check_version(version: str | None, model: Model) -> None:
    """Raise UnknownVersion where ``version`` is not the version of ``model``."""
    if version is not None and version != model.manifest.version:
        raise UnknownVersion(model.name, model.manifest.version)


def most_steps(model: Model, settings: Settings) -> int:
    """The most solver steps that a request to ``model`` may take."""
    return min(model.max_steps, settings.max_steps)


def step_problems(request: Task, model: Model, settings: Settings) -> list[FieldProblem]:
    """The problem of more steps than ``model`` or the settings allow."""
    most = most_steps(model, settings)
    if request.steps is None or request.steps <= most or not takes_steps(model, request.task):
        return []
    return [FieldProblem("#/steps", f"exceeds the maximum of {model.name}", f"1 to {most}")]


def field_problems(request: Task, model: Model) -> list[FieldProblem]:
    """The fields of ``request`` that ``model`` does not support."""
    problems = []
    for name in sorted(request.model_fields_set):
        reason = unsupported(model, name, request.task)
        if reason is not None and getattr(request, name) is not None and getattr(request, name) is not False:
            problems.append(FieldProblem(f"#/{name}", reason, "leave it out"))
    solver = getattr(request, "solver", None)
    if solver is not None and takes_steps(model, request.task) and solver not in model.solvers:
        known = ", ".join(map(repr, model.solvers))
        problems.append(FieldProblem("#/solver", f"is not a solver of {model.name}", known))
    if request.layout == "film":
        if not takes_steps(model, request.task):
            reason = f"film is not supported by {model.name}: it takes no solver steps for this task"
            problems.append(FieldProblem("#/layout", reason, "any other layout"))
        elif request.preview_every == 0:
            problems.append(FieldProblem("#/preview_every", "must not be 0 for a film", "1 or more"))
    return problems


def _check_model(request: GenerateRequest | InterpolateRequest, model: Model) -> None:
    starts = isinstance(request, GenerateRequest) and request.has_start
    if request.task not in model.manifest.capabilities and not starts:
        allowed = ", ".join(model.manifest.capabilities)
        if request.task == "generate":
            allowed += "; or set what to start from: image, latents or point"
        raise InvalidField.of("model", f"{model.name} cannot {request.task}", allowed)
    check_version(request.version, model)


def _resolved(
    request: GenerateRequest | InterpolateRequest,
    model: Model,
    labels: Sequence[int | None],
    negative: int | None,
    media: str,
    settings: Settings,
) -> Resolved:
    manifest, defaults = model.manifest, model.manifest.defaults
    names = [*manifest.class_names, NO_CLASS]
    guidance_scale = request.guidance_scale
    if guidance_scale is None:
        guided = reads_prompts(model) or _have_classes(labels, manifest)
        guidance_scale = defaults.guidance_scale if defaults and guided else 1.0
    if negative is not None and guidance_scale == 1:
        raise InvalidField.of("negative_class", "has no effect without guidance", "guidance_scale other than 1")
    shown: list[JsonValue] = [None if label is None else names[label] for label in labels]
    params: Params = {"class_label": shown if isinstance(request.class_label, list) else shown[0]}
    plan, size = EMPTY_PLAN, None
    if reads_prompts(model):
        params, size = prompt_params(request, model), size_of(request, model)
    if defaults is not None:
        solver = request.solver or _default_solver(request, model, defaults)
        steps = request.steps or min(defaults.steps, settings.max_steps)
        eta, strength = 0.0, 1.0
        if isinstance(request, GenerateRequest):
            eta, strength = request.eta or 0.0, strength_of(request)
        plan = _plan(model, solver, steps, eta, strength)
        params |= {"steps": steps, "solver": solver, "guidance_scale": guidance_scale}
        if eta:
            params["eta"] = eta
        if negative is not None:
            params["negative_class"] = names[negative]
    # The picture of a point is decoded, in the single step of `initial_latents.decoded`.
    at_point = isinstance(request, GenerateRequest) and request.point is not None
    layout = layout_of(request, media, image_shape_of(model, size), 1 if at_point else plan.steps, settings)
    params |= layout_params(request, layout)
    if reads_prompts(model) and not is_guided(guidance_scale, model):
        guidance_scale = 1.0
    return Resolved(manifest.null_label, labels, guidance_scale, negative, plan, params, layout, size)


def _plan(model: Model, solver: SolverName, steps: int, eta: float, strength: float) -> Plan:
    """As ``Model.plan``. Raises InvalidField for what only the solver rejects: its messages begin with the field."""
    try:
        return model.plan(solver, steps, eta, strength)
    except ValueError as failure:
        field, _, reason = str(failure).partition(" ")
        if field not in ("steps", "eta", "strength"):
            field, reason = "solver", str(failure)
        raise InvalidField.of(field, reason) from None


def _default_scale(request: GenerateRequest | InterpolateRequest, model: Model) -> float:
    """The guidance scale of a model with prompts."""
    if request.guidance_scale is not None:
        return request.guidance_scale
    return 1.0 if model.manifest.defaults is None else model.manifest.defaults.guidance_scale


def _have_classes(labels: Sequence[int | None], manifest: Manifest) -> bool:
    """Whether every picture has a class."""
    return bool(manifest.class_names) and manifest.null_label not in labels


def _default_solver(request: GenerateRequest | InterpolateRequest, model: Model, defaults: Defaults) -> SolverName:
    """The manifest's; for a path a deterministic one, and ddim where pictures are inverted, as inversion is DDIM's."""
    if not isinstance(request, InterpolateRequest):
        return defaults.solver
    inverted = any(point.image is not None for point in request.key_points)
    usable = [solver for solver in get_args(DeterministicSolver) if solver in model.solvers]
    return usable[0] if inverted or defaults.solver not in usable else defaults.solver


def labels_of(
    classes: Sequence[int | str | None], manifest: Manifest, field: str, problems: list[FieldProblem]
) -> Sequence[int | None]:
    """The labels of ``classes``; where one cannot be used, [None], and ``problems`` has one more, on ``field``."""
    try:
        labels = [None if each is None else label_of(each, manifest.class_names) for each in classes]
    except ClassNotFound as failure:
        problems.append(_class_problem(field, manifest, failure))
        return [None]
    if manifest.needs_class and manifest.null_label in labels:
        problems.append(no_class_problem(field, manifest))
        return [None]
    return labels


def no_class_problem(field: str, manifest: Manifest) -> FieldProblem:
    """The problem of a ``field`` that means "no class" where the model needs one."""
    return FieldProblem(f"#/{field}", f"{manifest.name} makes no pictures without a class", _class_list(manifest))


def _class_problem(field: str, manifest: Manifest, failure: ClassNotFound) -> FieldProblem:
    """The problem of a ``field`` that matches no class of the model, or several."""
    if failure.candidates:
        message = "matches more than one class: write one of them exactly"
        return FieldProblem(f"#/{field}", message, _listed(failure.candidates, manifest))
    return FieldProblem(f"#/{field}", f"{manifest.name} has no such class", _class_list(manifest))


def _class_list(manifest: Manifest) -> str:
    """The allowed classes as an error message lists them, with their indices where numbers mean indices."""
    count = len(manifest.class_names)
    shown = _listed(range(min(count, MOST_LISTED)), manifest)
    more = f"and {count - MOST_LISTED} more listed by GET /models/{manifest.name}" if count > MOST_LISTED else ""
    return ", ".join(part for part in (shown, more, "" if manifest.needs_class else NO_CLASS) if part)


def _listed(labels: Sequence[int], manifest: Manifest) -> str:
    names = manifest.class_names
    if has_numeric_names(names):
        return ", ".join([*names, NO_CLASS][label] for label in labels)
    return ", ".join(f"{label} {names[label]}" if label < len(names) else NO_CLASS for label in labels)


def first_of_each(problems: Sequence[FieldProblem]) -> Sequence[FieldProblem]:
    """The first problem of each field: later ones usually follow from it."""
    return list({problem.pointer: problem for problem in reversed(problems)}.values())[::-1]


def _count_problems(request: GenerateRequest | InterpolateRequest, settings: Settings) -> list[FieldProblem]:
    if isinstance(request, GenerateRequest) and (problem := list_problem(request)):
        return [problem]
    if request.count > settings.max_images:
        # Without the number: it may have thousands of digits.
        message = "more pictures than one request may have"
        return [FieldProblem(f"#/{_count_field(request)}", message, f"up to {settings.max_images}")]
    return []


def _count_field(request: GenerateRequest | InterpolateRequest) -> str:
    if isinstance(request, InterpolateRequest):
        return "frames"
    if request.seeds is not None:
        return "seeds"
    return "n" if request.latents is None or "n" in request.model_fields_set else "latents"


def _guidance_problems(
    request: GenerateRequest | InterpolateRequest, model: Model, labels: Sequence[int | None]
) -> list[FieldProblem]:
    if request.guidance_scale in (None, 1.0) or not model.manifest.denoises or _have_classes(labels, model.manifest):
        return []
    if reads_prompts(model):
        return []
    return [FieldProblem("#/guidance_scale", "guides towards a class, and none is set", "leave it out, or set a class")]
