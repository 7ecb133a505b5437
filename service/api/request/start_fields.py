"""The fields of a request that say what its pictures start from: which exclude each other, and which need another."""

from collections.abc import Sequence

from service.api.request.prompt_fields import latent_shape_of, size_of
from service.api.request.schemas import GenerateRequest
from service.engine.model import Model
from service.errors import FieldProblem

#: Default of ``strength``, without and with a mask.
STRENGTH, STRENGTH_WITH_MASK = 0.6, 1.0

#: Fields that exclude each other, and fields that need another.
_STARTS = ("image", "latents", "point", "truncation")
_NEEDS = {"strength": "image", "mask": "image", "spread": "image", "mask_invert": "mask"}
_FIELDS = frozenset({*_STARTS, *_NEEDS, "eta"})


def strength_of(request: GenerateRequest) -> float:
    """The fraction of the solver's steps that ``request`` takes, in (0, 1]."""
    if request.strength is not None:
        return request.strength
    if request.image is None:
        return 1.0
    return STRENGTH if request.mask is None else STRENGTH_WITH_MASK


def list_problem(request: GenerateRequest) -> FieldProblem | None:
    """The problem of lists with one value for each picture that do not fit ``n`` or each other."""
    if request.seeds is not None:
        if request.seed is not None:
            return FieldProblem("#/seeds", "excludes seed: both set the seeds", "one of the two")
        if "n" in request.model_fields_set and request.n != len(request.seeds):
            return FieldProblem("#/n", f"is not the number of seeds, {len(request.seeds)}", "leave it out")
    return class_count_problem(request.class_label, request.count)


def class_count_problem(class_label: object, count: int) -> FieldProblem | None:
    """The problem of a list of classes that is not as long as the list of ``count`` pictures."""
    if not isinstance(class_label, list) or len(class_label) == count:
        return None
    message = f"has {len(class_label)} classes for {count} pictures"
    return FieldProblem("#/class_label", message, f"one class, or a list of {count}")


def start_problems(request: GenerateRequest, model: Model) -> list[FieldProblem]:
    """All problems of the fields that say what ``request`` starts from."""
    if request.model_fields_set.isdisjoint(_FIELDS):
        return []
    problems = [*_exclusive(request), *_incomplete(request)]
    shape = (request.count, *latent_shape_of(model, size_of(request, model)))
    if request.latents is not None and request.latents.shape != shape:
        message = f"has shape {written(request.latents.shape)}"
        problems.append(FieldProblem("#/latents", message, f"{written(shape)}, one latent for each picture"))
    if request.eta and (request.solver or (model.manifest.defaults and model.manifest.defaults.solver)) != "ddim":
        problems.append(FieldProblem("#/eta", "has no effect with this solver", "leave it out; or solver ddim"))
    return problems


def _exclusive(request: GenerateRequest) -> Sequence[FieldProblem]:
    given = [name for name in _STARTS if getattr(request, name) is not None]
    return [
        FieldProblem(f"#/{name}", f"excludes {given[0]}: both set what pictures start from", "one of the two")
        for name in given[1:]
    ]


def _incomplete(request: GenerateRequest) -> Sequence[FieldProblem]:
    return [
        FieldProblem(f"#/{name}", f"has no effect without {needed}", f"leave it out, or send {needed}")
        for name, needed in _NEEDS.items()
        if getattr(request, name) not in (None, False) and getattr(request, needed) is None
    ]


def written(shape: tuple[int, ...]) -> str:
    """``shape`` as an error message shows it."""
    return f"({', '.join(str(size) for size in shape)})"
