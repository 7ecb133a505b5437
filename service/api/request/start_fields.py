"""What the fields of a request that say where its pictures begin may be, beside each other and for a model."""

from service.api.request.schemas import GenerateRequest
from service.engine.model import Model
from service.errors import FieldProblem

#: How much of an image is made anew where the request does not say, and where a mask says which part is.
STRENGTH, STRENGTH_WITH_MASK = 0.6, 1.0

#: What pictures can begin from, and what the fields that say how mean nothing without.
_STARTS = ("image", "latents", "point", "truncation")
_NEEDS = {"strength": "image", "mask": "image", "spread": "image", "mask_invert": "mask"}
_FIELDS = frozenset({*_STARTS, *_NEEDS, "eta"})


def strength_of(request: GenerateRequest) -> float:
    """The part of the steps that ``request`` takes."""
    if request.strength is not None:
        return request.strength
    if request.image is None:
        return 1.0
    return STRENGTH if request.mask is None else STRENGTH_WITH_MASK


def list_problem(request: GenerateRequest) -> FieldProblem | None:
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


def start_problems(request: GenerateRequest, model: Model) -> list[FieldProblem]:
    """What is wrong with what ``request`` begins from."""
    if request.model_fields_set.isdisjoint(_FIELDS):
        return []
    problems = [*_together(request), *_alone(request)]
    shape = (request.count, *model.manifest.latent_shape)
    if request.latents is not None and request.latents.shape != shape:
        message = f"has shape {written(request.latents.shape)}"
        problems.append(FieldProblem("#/latents", message, f"{written(shape)}, a latent for each picture"))
    if request.eta and (request.solver or (model.manifest.defaults and model.manifest.defaults.solver)) != "ddim":
        problems.append(FieldProblem("#/eta", "means nothing to this solver", "leave it out; or solver ddim"))
    return problems


def _together(request: GenerateRequest) -> list[FieldProblem]:
    """More than one thing to begin from."""
    given = [name for name in _STARTS if getattr(request, name) is not None]
    return [
        FieldProblem(f"#/{name}", f"says what to begin from, and so does {given[0]}", "one of the two")
        for name in given[1:]
    ]


def _alone(request: GenerateRequest) -> list[FieldProblem]:
    """Fields that say how, without what."""
    return [
        FieldProblem(f"#/{name}", f"means nothing without {needed}", f"leave it out, or send {needed}")
        for name, needed in _NEEDS.items()
        if getattr(request, name) not in (None, False) and getattr(request, needed) is None
    ]


def written(shape: tuple[int, ...]) -> str:
    """A shape, for people."""
    return f"({', '.join(str(size) for size in shape)})"
