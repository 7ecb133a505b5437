"""The fields of models with prompts, or in diffusers' format: prompts, sizes, LoRAs and control pictures."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

from pydantic import JsonValue

from service.api.request.capabilities import paints_in, reads_prompts, unsupported
from service.api.request.schemas import GenerateRequest, InterpolateRequest, Lora, Params, lora_of
from service.contract.pipeline import Conditioning
from service.engine.model import Model
from service.engine.rows import Adapter, Size
from service.errors import FieldProblem

Value = TypeVar("Value")
#: A request of a task that reads prompts.
Prompting = GenerateRequest | InterpolateRequest

#: Fields that may have a value for each picture.
LISTS = ("prompt", "negative_prompt", "lora")
_CONTROLS = ("control", "control_scale", "control_start", "control_end")
#: LoRAs that an error message lists at most.
_MOST_LISTED = 20


def each_of(value: Value | list[Value], count: int) -> Sequence[Value]:
    """``value`` for each of ``count`` pictures."""
    return value if isinstance(value, list) else [value] * count


def adapters_of(request: Prompting) -> Sequence[Adapter | None]:
    """The LoRA of each picture."""
    return [_adapter(each) for each in each_of(request.lora, request.count)]


def size_of(request: Prompting, model: Model) -> Size | None:
    """The height and width of the pictures; None for the model's own."""
    _, *own = model.manifest.image_shape
    size = request.height or own[0], request.width or own[1]
    return None if size == (own[0], own[1]) else size


def image_shape_of(model: Model, size: Size | None) -> tuple[int, int, int]:
    """(channel, height, width) of pictures of ``size``."""
    channels, *own = model.manifest.image_shape
    height, width = size or own
    return channels, height, width


def latent_shape_of(model: Model, size: Size | None) -> tuple[int, ...]:
    """The shape of the latents of pictures of ``size``."""
    pipeline, own = model.manifest.pipeline, model.manifest.latent_shape
    return own if size is None or pipeline is None else (own[0], *(side // pipeline.factor for side in size))


def is_guided(scale: float, model: Model) -> bool:
    """Whether a row with prompts takes two rows of a forward pass: a scale of at most 1 is no guidance."""
    assert model.manifest.conditioning is not None
    return model.manifest.conditioning.guidance == "classifier-free" and scale > 1


def prompt_problems(request: Prompting, model: Model, scale: float) -> list[FieldProblem]:
    """The problems of these fields, of those that ``model`` supports; ``scale`` of guidance is the one that acts."""
    conditioning = model.manifest.conditioning
    if conditioning is None:
        return []
    problems = [*_list_problems(request), *_size_problems(request, conditioning, model.name)]
    problems += _lora_problems(request, model)
    if isinstance(request, GenerateRequest):
        problems += _control_problems(request, conditioning)
    if reads_prompts(model) and request.negative_prompt is not None and not is_guided(scale, model):
        says = "has no effect without guidance"
        problems.append(FieldProblem("#/negative_prompt", says, "leave it out; or guidance_scale above 1"))
    if paints_in(model) and isinstance(request, GenerateRequest):
        problems += [
            FieldProblem(f"#/{name}", f"is needed: {model.name} only redraws a part of a picture")
            for name in ("image", "mask")
            if getattr(request, name) is None
        ]
    return [each for each in problems if unsupported(model, each.pointer.split("/")[1], request.task) is None]


def prompt_params(request: Prompting, model: Model) -> Params:
    """These fields as responses report them, uploads excepted; none of a model without prompts."""
    conditioning = model.manifest.conditioning
    if conditioning is None or not reads_prompts(model):
        return {}
    params: Params = {}
    if isinstance(request, GenerateRequest) or request.prompt is not None:
        params["prompt"] = _plain(request.prompt or "")
    if request.negative_prompt is not None:
        params["negative_prompt"] = _plain(request.negative_prompt)
    _, params["height"], params["width"] = image_shape_of(model, size_of(request, model))
    if request.lora is not None:
        each = [None if adapter is None else {**adapter._asdict()} for adapter in adapters_of(request)]
        params["lora"] = [*each] if isinstance(request.lora, list) else each[0]
    if isinstance(request, GenerateRequest) and request.control_image is not None:
        params |= {"control": control_of(request, conditioning), "control_scale": _or(request.control_scale, 1.0)}
        params |= {"control_start": request.control_start or 0.0, "control_end": _or(request.control_end, 1.0)}
    return params


def control_of(request: GenerateRequest, conditioning: Conditioning) -> str:
    """The network that reads the control picture."""
    return request.control or conditioning.controls[0]


def _plain(value: str | list[str]) -> JsonValue:
    return [*value] if isinstance(value, list) else value


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _adapter(lora: Lora | str | None) -> Adapter | None:
    if isinstance(lora, Lora):
        return Adapter(lora.name, lora.scale)
    return None if lora is None else Adapter(*lora_of(lora))


def _list_problems(request: Prompting) -> Iterator[FieldProblem]:
    for name in LISTS:
        value = getattr(request, name)
        if isinstance(value, list) and len(value) != request.count:
            says = f"has {len(value)} values for {request.count} pictures"
            yield FieldProblem(f"#/{name}", says, f"one value, or a list of {request.count}")


def _size_problems(request: Prompting, conditioning: Conditioning, name: str) -> Iterator[FieldProblem]:
    sizes = conditioning.sizes
    sides = {"width": request.width or sizes.width, "height": request.height or sizes.height}
    if sides == {"width": sizes.width, "height": sizes.height}:
        return
    for field, side in sides.items():
        if side % sizes.multiple or not sizes.smallest <= side <= sizes.largest:
            allowed = f"a multiple of {sizes.multiple} from {sizes.smallest} to {sizes.largest}"
            yield FieldProblem(f"#/{field}", f"{side} is not supported by {name}", allowed)


def _lora_problems(request: Prompting, model: Model) -> Iterator[FieldProblem]:
    for adapter in adapters_of(request) if request.lora is not None else ():
        if adapter is not None and adapter.name not in model.adapters:
            shown = ", ".join(model.adapters[:_MOST_LISTED])
            yield FieldProblem("#/lora", f"{model.name} has no LoRA {adapter.name[:64]!r}", shown)
            return


def _control_problems(request: GenerateRequest, conditioning: Conditioning) -> Iterator[FieldProblem]:
    for name in _CONTROLS:
        if getattr(request, name) is not None and request.control_image is None:
            yield FieldProblem(f"#/{name}", "has no effect without control_image", "leave it out, or send a picture")
    if request.control is not None and request.control not in conditioning.controls:
        yield FieldProblem("#/control", "is not one of the model's controls", ", ".join(conditioning.controls))
    if (request.control_start or 0.0) >= _or(request.control_end, 1.0):
        yield FieldProblem("#/control_end", "is not after control_start", "above control_start, up to 1")
