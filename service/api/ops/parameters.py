"""The fields that a model supports, with its bounds and defaults: a form can be built from them."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from service.api.http.openapi import inlined
from service.api.request.capabilities import abilities, encodes, paints_in, takes_steps, unsupported
from service.api.request.resolve import most_steps
from service.api.request.schemas import GenerateRequest, InterpolateRequest, Task
from service.api.request.start_fields import STRENGTH
from service.api.tasks.encode import STEPS as INVERSION_STEPS
from service.api.tasks.encode import EncodeRequest
from service.contract.pipeline import Conditioning
from service.engine.model import Model
from service.settings import Settings

#: A field's JSON schema.
Parameter = Mapping[str, Any]


def tasks_of(model: Model, settings: Settings) -> dict[str, dict[str, Parameter]]:
    """The fields of each task that ``model`` has, by their names."""
    does = abilities(model)
    tasks: dict[str, dict[str, Parameter]] = {}
    if "generate" in does or encodes(model) or paints_in(model):
        tasks["generate"] = _parameters(GenerateRequest, model, settings)
    if "interpolate" in does:
        tasks["interpolate"] = _parameters(InterpolateRequest, model, settings)
    if "encode" in does or "invert" in does:
        tasks["encode"] = _parameters(EncodeRequest, model, settings)
        if "steps" in tasks["encode"]:
            most = tasks["encode"]["steps"]["maximum"]
            tasks["encode"]["steps"] = {**tasks["encode"]["steps"], "default": min(INVERSION_STEPS, most)}
    return tasks


def _parameters(schema: type[Task], model: Model, settings: Settings) -> dict[str, Parameter]:
    own = _own(model, settings)
    meant = {name: field for name, field in _fields(schema).items() if not unsupported(model, name, schema.task)}
    found: dict[str, Parameter] = {name: {**field, **own.get(name, {})} for name, field in meant.items()}
    if "solver" in found:
        known = [solver for solver in found["solver"]["enum"] if solver in model.solvers]
        default = found["solver"]["default"]
        found["solver"] = {**found["solver"], "enum": known, "default": default if default in known else "ddim"}
    if not takes_steps(model, schema.task):
        layouts = [layout for layout in found["layout"]["enum"] if layout != "film"]
        found["layout"] = {**found["layout"], "enum": layouts}
    return found


def _own(model: Model, settings: Settings) -> dict[str, Parameter]:
    """Bounds and defaults that the model and the settings determine."""
    own: dict[str, Parameter] = {"n": {"maximum": settings.max_images}, "frames": {"maximum": settings.max_images}}
    if (defaults := model.manifest.defaults) is not None:
        most = most_steps(model, settings)
        own["steps"] = {"maximum": most, "default": min(defaults.steps, most)}
        own["solver"] = {"default": defaults.solver}
        own["guidance_scale"] = {"default": defaults.guidance_scale}
    conditioning = model.manifest.conditioning
    return own if conditioning is None else own | _of_conditioning(conditioning)


def _of_conditioning(conditioning: Conditioning) -> dict[str, Parameter]:
    sizes = conditioning.sizes
    side = {"minimum": sizes.smallest, "maximum": sizes.largest, "multipleOf": sizes.multiple}
    own: dict[str, Parameter] = {
        "width": {**side, "default": sizes.width},
        "height": {**side, "default": sizes.height},
        "lora": {"examples": [*conditioning.loras]},
        "strength": {"default": STRENGTH},
    }
    return own | (
        {"control": {"enum": [*conditioning.controls], "default": conditioning.controls[0]}}
        if conditioning.controls
        else {}
    )


@lru_cache
def _fields(schema: type[Task]) -> dict[str, Parameter]:
    """The JSON schemas of all fields, without null, which means the same as an absent field."""
    return {name: _present(field) for name, field in inlined(schema.model_json_schema())["properties"].items()}


def _present(field: Parameter) -> Parameter:
    forms = [form for form in field.get("anyOf", ()) if form.get("type") != "null"]
    if len(forms) != 1:
        return field
    rest = {name: value for name, value in field.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**forms[0], **rest}
