"""What a diffusers folder can do, as data: for its model card, its fields and the page."""

from dataclasses import dataclass

from service.contract.pipeline import GuidanceKind, Sizes, Task
from service.models.diffusers.configs import PixelUNet
from service.models.diffusers.files import FolderError
from service.models.diffusers.folder import OPTIONS_FILE, DiffusersFolder
from service.models.diffusers.pipelines import CALLS, SCHEDULERS, TEXT_CALL

PLAIN_SOLVERS = ("ddim", "ddpm", "dpmpp_2m", "euler", "euler_ancestral")


@dataclass(frozen=True)
class Card:
    """A model as its clients see it. `negative` says whether a negative prompt acts; `tokens` of a prompt are used.

    `steps`, `guidance_scale` and `solver` are those of a request that names none.
    """

    name: str | None
    pipeline: str
    tasks: tuple[Task, ...]
    sizes: Sizes
    prediction_type: str
    solver: str
    solvers: tuple[str, ...]
    steps: int
    guidance: GuidanceKind
    guidance_scale: float
    negative: bool
    tokens: int
    classes: int
    class_names: tuple[str, ...]
    controls: tuple[str, ...]
    loras: tuple[str, ...]
    licence: str | None
    dtype: str | None
    parameters: int
    notes: tuple[str, ...]


def describe(folder: DiffusersFolder) -> Card:
    """The card of a checked folder. Raises FolderError where the defaults of its genserve.json are not possible."""
    defaults, solvers = folder.options.defaults, _solvers(folder)
    steps, scale = _call(folder)
    card = Card(
        name=folder.options.name,
        pipeline=folder.pipeline,
        tasks=_tasks(folder),
        sizes=_sizes(folder),
        prediction_type=folder.scheduler.prediction_type,
        solver=defaults.solver or _solver(folder),
        solvers=solvers,
        steps=defaults.steps or steps,
        guidance=_guidance(folder),
        guidance_scale=scale if defaults.guidance_scale is None else defaults.guidance_scale,
        negative=folder.kind != "pixel" and _guidance(folder) == "classifier-free",
        tokens=folder.texts[0].encoder.config.max_position_embeddings - 2 if folder.texts else 0,
        classes=_classes(folder),
        class_names=folder.options.class_names,
        controls=tuple(folder.controlnets),
        loras=tuple(folder.loras),
        licence=folder.options.licence,
        dtype=folder.options.dtype,
        parameters=folder.parameters,
        notes=(*folder.notes, *_notes(folder)),
    )
    if card.guidance == "none" and card.guidance_scale > 1:
        wrong = "defaults.guidance_scale: guidance needs a class of the UNet that class_names does not name"
        raise FolderError(folder.path / OPTIONS_FILE, wrong)
    if card.solver not in solvers:
        raise FolderError(folder.path / OPTIONS_FILE, f"defaults.solver: {card.solver} is not one of {solvers}")
    return card


def _tasks(folder: DiffusersFolder) -> tuple[Task, ...]:
    if folder.kind == "pixel":
        return ("generate",)
    if folder.paints_in:
        return ("inpaint",)
    return ("text-to-image", "image-to-image", "inpaint", *(("control",) if folder.controlnets else ()))


def _sizes(folder: DiffusersFolder) -> Sizes:
    """A text model's sides go up to twice the size that it was trained at, beyond which pictures repeat themselves."""
    factor, options = folder.latent_factor, folder.options
    height, width = (side * factor for side in folder.unet.config.height_width)
    multiple = factor * folder.unet.config.factor
    largest = options.max_side or 2 * max(height, width)
    trained = _sizes_of(width, height, multiple, 0 if folder.kind == "pixel" else largest)
    chosen = options.defaults.width or width, options.defaults.height or height
    try:
        trained.require(*chosen)
    except ValueError as failure:
        raise FolderError(folder.path / OPTIONS_FILE, f"defaults: {failure}") from failure
    return _sizes_of(*chosen, multiple, trained.largest)


def _sizes_of(width: int, height: int, multiple: int, largest: int) -> Sizes:
    return Sizes(width=width, height=height, multiple=multiple, smallest=multiple, largest=largest)


def _solver(folder: DiffusersFolder) -> str:
    return "ddim" if folder.pipeline == "DDIMPipeline" else SCHEDULERS[folder.scheduler.class_name].name


def _solvers(folder: DiffusersFolder) -> tuple[str, ...]:
    """A consistency model only has its own solver; the others may get its steps from a LoRA."""
    if _guidance(folder) == "embedded" or folder.pipeline.startswith("LatentConsistency"):
        return ("lcm",)
    return PLAIN_SOLVERS if folder.kind == "pixel" and _solver(folder) != "lcm" else (*PLAIN_SOLVERS, "lcm")


def _guidance(folder: DiffusersFolder) -> GuidanceKind:
    unet = folder.unet.config
    if isinstance(unet, PixelUNet):
        has_no_class = bool(folder.options.class_names) and len(folder.options.class_names) < _classes(folder)
        return "classifier-free" if has_no_class else "none"
    return "embedded" if unet.time_cond_proj_dim is not None else "classifier-free"


def _classes(folder: DiffusersFolder) -> int:
    unet = folder.unet.config
    return unet.num_class_embeds or 0 if isinstance(unet, PixelUNet) else 0


def _is_turbo(folder: DiffusersFolder) -> bool:
    """Whether the folder is a Turbo model, by the scheduler that these have: Euler steps with trailing timesteps."""
    return folder.scheduler.class_name.startswith("Euler") and folder.scheduler.timestep_spacing == "trailing"


def _call(folder: DiffusersFolder) -> tuple[int, float]:
    if folder.kind != "pixel" and _is_turbo(folder):
        return 1, 0.0
    return CALLS.get(folder.pipeline, TEXT_CALL)


def _notes(folder: DiffusersFolder) -> tuple[str, ...]:
    scheduler, notes = folder.scheduler.class_name, []
    if not SCHEDULERS[scheduler].exact and _solver(folder) != "ddim":
        notes.append(f"{scheduler} is served by {_solver(folder)}: its pictures differ from the pipeline's")
    if folder.kind != "pixel" and _is_turbo(folder):
        notes.append(
            "trailing Euler steps: taken for a Turbo model of one step without guidance, unless defaults differ"
        )
    return tuple(notes)
