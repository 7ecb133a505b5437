"""The requests of AUTOMATIC1111's web UI, in the fields of /generate.

Its clients send every field of theirs. Those without a meaning here are accepted where they ask for nothing.
"""

import re
from dataclasses import replace
from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, model_validator

from service.api.dialects.native import DialectRequest, class_of_prompt, prompt_fields, size_fields
from service.api.request.body import echoed, near
from service.api.request.prompt_text import Prompt
from service.api.request.schemas import MAX_LORA, GenerateRequest, Share, lora_of
from service.api.request.uploads import Upload
from service.contract.manifest import Manifest
from service.errors import FieldProblem, InvalidField

#: The names of solvers there.
SAMPLERS = {
    "Euler a": "euler_ancestral",
    "Euler": "euler",
    "DPM++ 2M": "dpmpp_2m",
    "DDIM": "ddim",
    "LCM": "lcm",
    "DDPM": "ddpm",
    "Consistency": "consistency",
}
#: Fields that must ask for nothing.
_LACKING = ("enable_hr", "restore_faces", "tiling", "subseed_strength", "script_name", "script_args", "styles")
#: Fields without a meaning here: how pictures are stored, noise of other samplers, and details of what is lacking.
_IGNORED = re.compile(
    r"hr_\w+|firstphase_\w+|subseed|seed_resize_from_[hw]|do_not_save_\w+|save_images|send_images|eta|s_\w+|"
    r"override_settings_restore_afterwards|resize_mode|image_cfg_scale|mask_blur|inpainting_fill|inpaint_full_res\w*|"
    r"initial_noise_multiplier|include_init_images|denoising_strength|" + "|".join(_LACKING)
)
#: A LoRA in a prompt: <lora:name:0.8>.
_LORA = re.compile(r"<lora:([^<>]+)>")
_MOST_LORA_NAME = 200

CONTROL = "alwayson_scripts/ControlNet/args"
#: Their fields, for problems with those of /generate.
_THEIRS = {
    "class_label": "prompt",
    "control": f"{CONTROL}/0/model",
    "control_end": f"{CONTROL}/0/guidance_end",
    "control_image": f"{CONTROL}/0/image",
    "control_scale": f"{CONTROL}/0/weight",
    "control_start": f"{CONTROL}/0/guidance_start",
    "guidance_scale": "cfg_scale",
    "image": "init_images",
    "lora": "prompt",
    "mask_invert": "inpainting_mask_invert",
    "n": "batch_size",
    "negative_class": "negative_prompt",
    "solver": "sampler_name",
    "strength": "denoising_strength",
}


#: Values of a unit that ask for nothing, by field of /generate.
_UNSET = {"control": None, "control_scale": 1.0, "control_start": 0.0, "control_end": 1.0}


class Settings(DialectRequest):
    """Settings of the web UI: the others are without effect."""

    model_config = ConfigDict(extra="allow")

    sd_model_checkpoint: Annotated[str, Field(max_length=128)] | None = Field(
        default=None, description="Name of a model, or its title in sd-models. Absent: the first that reads prompts."
    )
    live_previews_enable: bool = Field(default=True, description="Whether progress shows a picture.")
    show_progress_every_n_steps: int = Field(
        default=10, ge=-1, le=1_000_000, description="Steps between two pictures of progress; below 1: none."
    )

    @property
    def preview_every(self) -> int:
        """Steps between two previews; 0 for none."""
        return max(0, self.show_progress_every_n_steps) if self.live_previews_enable else 0


class ControlUnit(DialectRequest):
    """A unit of the ControlNet extension; its other fields are without effect."""

    model_config = ConfigDict(extra="allow")

    enabled: bool = True
    image: Upload | None = Field(
        default=None, description="control_image of /generate. Absent in img2img: its picture."
    )
    weight: float = Field(default=1.0, ge=0, le=4, description="control_scale of /generate.")
    guidance_start: Share = Field(default=0.0, description="control_start of /generate.")
    guidance_end: Share = Field(default=1.0, description="control_end of /generate.")
    model: Annotated[str, Field(max_length=128)] = Field(
        default="None", description="Name of a ControlNet of the model; None: the first."
    )
    module: Annotated[str, Field(max_length=64)] = Field(
        default="none", description="none: pictures are not preprocessed."
    )
    control_mode: int | Annotated[str, Field(max_length=64)] = Field(default="Balanced", description="Balanced, or 0.")
    mask: JsonValue = Field(default=None, description="Not supported.")

    def fields(self, place: str, other: bytes | None) -> dict[str, Any]:
        """The fields of /generate that it means; ``other`` stands for an absent picture. Raises InvalidField."""
        if self.module.lower() != "none":
            raise InvalidField.of(f"{place}/module", "is not supported: send the picture that it would make", "none")
        if self.control_mode not in ("Balanced", 0):
            raise InvalidField.of(f"{place}/control_mode", "is not supported", "Balanced")
        if self.mask is not None:
            raise InvalidField.of(f"{place}/mask", "is not supported", "leave it out")
        image = self.image or other
        if image is None:
            raise InvalidField.of(f"{place}/image", "is needed: the picture that the ControlNet reads")
        name = self.model.partition(" [")[0]
        given = {"control": None if name.lower() == "none" else name, "control_scale": self.weight}
        given |= {"control_start": self.guidance_start, "control_end": self.guidance_end}
        # Values without effect are left out: they would be problems of their own of a model without a ControlNet.
        return {"control_image": image} | {name: value for name, value in given.items() if value != _UNSET[name]}


class _ControlNet(DialectRequest):
    args: list[ControlUnit] = Field(default=[], max_length=16, description="Units, one of which may be enabled.")


class _Scripts(DialectRequest):
    model_config = ConfigDict(extra="allow")

    control_net: _ControlNet = Field(default=_ControlNet(), alias="ControlNet", description="In any case.")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, scripts: Any) -> Any:  # noqa: ANN401  (whatever JSON holds)
        if not isinstance(scripts, dict):
            return scripts
        return {"ControlNet" if name.lower() == "controlnet" else name: each for name, each in scripts.items()}

    def unit(self) -> tuple[str, ControlUnit] | None:
        """The enabled unit of the ControlNet, and its place in a request. Raises InvalidField for several."""
        enabled = [(f"{CONTROL}/{index}", each) for index, each in enumerate(self.control_net.args) if each.enabled]
        if len(enabled) > 1:
            raise InvalidField.of(enabled[1][0], "is another unit, and a picture has one control picture", "one unit")
        return enabled[0] if enabled else None


class Txt2ImgRequest(DialectRequest):
    """The body of POST /sdapi/v1/txt2img."""

    model_config = ConfigDict(extra="allow")

    prompt: Prompt = Field(default="", description="As in /generate; <lora:name:scale> in it selects a LoRA.")
    negative_prompt: Prompt = Field(default="", description="As in /generate.")
    seed: int = Field(default=-1, ge=-1, lt=1 << 32, description="-1: random.")
    batch_size: int = Field(default=1, ge=1, le=10_000, description="Times n_iter: the number of pictures.")
    n_iter: int = Field(default=1, ge=1, le=10_000, description="See batch_size.")
    steps: int | None = Field(default=None, ge=1, description="Solver steps.")
    cfg_scale: float | None = Field(default=None, ge=0, le=20, description="Guidance; at most 1: none.")
    width: int | None = Field(default=None, ge=1, le=16_384, description="Width in pixels.")
    height: int | None = Field(default=None, ge=1, le=16_384, description="Height in pixels.")
    sampler_name: Annotated[str, Field(max_length=64)] | None = Field(default=None, description="One of samplers.")
    sampler_index: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="The same, without sampler_name."
    )
    scheduler: Annotated[str, Field(max_length=64)] | None = Field(
        default=None, description="automatic: the noise levels are those of the model's scheduler_config.json."
    )
    override_settings: Settings = Field(default=Settings(), description="The model, and the pictures of progress.")
    alwayson_scripts: _Scripts = Field(
        default=_Scripts(), description="ControlNet, with one unit; others only without arguments."
    )

    def translated(self, manifest: Manifest) -> GenerateRequest:
        """The request to /generate that it means. Raises InvalidField, BadRequest."""
        self._check()
        return GenerateRequest(**self.fields(manifest))

    def fields(self, manifest: Manifest) -> dict[str, Any]:
        """The fields of /generate that it means. Raises InvalidField, BadRequest."""
        prompt, lora = _lora_in(self.prompt)
        fields: dict[str, Any] = {"n": self.batch_size * self.n_iter, **prompt_fields(prompt, manifest), **lora}
        given = {"steps": self.steps, "guidance_scale": self.cfg_scale, "solver": self._solver()}
        given |= {"seed": None if self.seed < 0 else self.seed}
        if self.negative_prompt.strip():
            text, negative = manifest.reads_prompts, self.negative_prompt
            given |= {"negative_prompt": negative} if text else {"negative_class": class_of_prompt(negative, manifest)}
        fields |= {name: value for name, value in given.items() if value is not None}
        if self.width is not None or self.height is not None:
            _, height, width = manifest.image_shape
            fields |= size_fields("width", self.width or width, self.height or height, manifest)
        unit = self.alwayson_scripts.unit()
        return fields if unit is None else fields | unit[1].fields(unit[0], self._picture())

    def _picture(self) -> bytes | None:
        """The picture to start from."""
        return None

    def _check(self) -> None:
        """Raise InvalidField for a field that is unknown, or that asks for what is lacking."""
        for name, value in (self.model_extra or {}).items():
            if not _IGNORED.fullmatch(name):
                raise InvalidField.of(echoed(name), f"there is no such field{near(name, type(self).model_fields)}")
            if name in _LACKING and value:
                raise InvalidField.of(name, "is not supported", "leave it out")
        for name, script in (self.alwayson_scripts.model_extra or {}).items():
            arguments = script.get("args") if isinstance(script, dict) else script
            if arguments and arguments != [False]:
                raise InvalidField.of("alwayson_scripts", f"{name[:64]!r} is not supported", "leave it out")
        if (self.scheduler or "automatic").lower() != "automatic":
            raise InvalidField.of("scheduler", "is decided by the model", "automatic")

    def _solver(self) -> str | None:
        """The solver of a sampler's name, or of a solver's own. Raises InvalidField for an unknown one."""
        field = "sampler_index" if self.sampler_name is None else "sampler_name"
        name = self.sampler_name or self.sampler_index
        if name is None or name in SAMPLERS.values():
            return name
        if name not in SAMPLERS:
            raise InvalidField.of(field, f"there is no sampler {name!r}", ", ".join(SAMPLERS))
        return SAMPLERS[name]


class Img2ImgRequest(Txt2ImgRequest):
    """The body of POST /sdapi/v1/img2img."""

    init_images: list[Upload] = Field(min_length=1, max_length=1, description="The picture to start from.")
    denoising_strength: float = Field(default=0.75, gt=0, le=1, description="strength of /generate.")
    mask: Upload | None = Field(default=None, description="White is redrawn.")
    inpainting_mask_invert: int = Field(default=0, ge=0, le=1, description="1: black is redrawn.")

    def fields(self, manifest: Manifest) -> dict[str, Any]:
        """As of the base class, with the picture."""
        masked = {} if self.mask is None else {"mask": self.mask, "mask_invert": bool(self.inpainting_mask_invert)}
        own = {"image": self.init_images[0], "strength": self.denoising_strength}
        return super().fields(manifest) | own | masked

    def _picture(self) -> bytes | None:
        return self.init_images[0]


def in_their_words(failure: InvalidField) -> InvalidField:
    """``failure``, which names fields of /generate, with the names that their clients use."""
    return InvalidField([replace(each, pointer=_theirs(each)) for each in failure.problems])


def _theirs(problem: FieldProblem) -> str:
    name = problem.pointer.removeprefix("#/")
    return f"#/{_THEIRS.get(name, name)}"


def _lora_in(prompt: str) -> tuple[str, dict[str, Any]]:
    """The prompt without its LoRA, and the field of it. Raises InvalidField where there are several."""
    found = _LORA.findall(prompt)
    if not found:
        return prompt, {}
    if len(found) > 1:
        raise InvalidField.of("prompt", "has several LoRAs", "one <lora:name:scale>")
    try:
        name, scale = lora_of(found[0])
    except ValueError as failure:
        raise InvalidField.of(
            "prompt", f"{failure} (of a LoRA)", f"<lora:name:0.8>, -{MAX_LORA} to {MAX_LORA}"
        ) from None
    return _LORA.sub("", prompt).strip(), {"lora": {"name": name[:_MOST_LORA_NAME], "scale": scale}}
