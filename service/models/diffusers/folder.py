"""A diffusers folder, checked: which pipeline it is, its components, ControlNets and LoRAs. Nothing is loaded here."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.models.diffusers.components import Component, Source, check_tokenizer, open_source, read_component
from service.models.diffusers.configs import ControlNet, Options, PixelUNet, Scheduler, TextModel, TextUNet, Vae, parse
from service.models.diffusers.files import FolderError, JsonFile, Weights, read_json, read_weights
from service.models.diffusers.pipelines import COMPONENTS, IGNORED, LIBRARIES, PIPELINES, Kind, classes_of

INDEX_FILE = "model_index.json"
OPTIONS_FILE = "genserve.json"
MAX_LORAS = 64
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class TextPart:
    """A text encoder with its tokenizer's folder."""

    encoder: Component[TextModel]
    tokenizer: Path


@dataclass(frozen=True)
class DiffusersFolder:
    """What a folder has. `controlnets` and `loras` are by name; `index` has the scalars of model_index.json.

    `notes` are one line each: what is ignored, or served differently from diffusers.
    """

    path: Path
    pipeline: str
    kind: Kind
    index: Mapping[str, Any]
    unet: Component[PixelUNet] | Component[TextUNet]
    scheduler: Scheduler
    scheduler_fields: Mapping[str, Any]
    vae: Component[Vae] | None
    texts: tuple[TextPart, ...]
    controlnets: Mapping[str, Component[ControlNet]]
    loras: Mapping[str, Weights]
    options: Options
    notes: tuple[str, ...]

    @property
    def networks(self) -> Iterator[Component[Any]]:
        """The components that have weights."""
        yield self.unet
        if self.vae is not None:
            yield self.vae
        yield from (text.encoder for text in self.texts)
        yield from self.controlnets.values()

    @property
    def parameters(self) -> int:
        """How many numbers the networks and the LoRAs have, by the headers of their files."""
        files = [file for network in self.networks for file in network.weights] + list(self.loras.values())
        return sum(file.parameters for file in files)

    @property
    def latent_channels(self) -> int:
        """The channels of the solver's state, which are those of the prediction."""
        return self.unet.config.out_channels

    @property
    def paints_in(self) -> bool:
        """Whether the UNet takes a mask and a masked latent beside its latent: 9 channels for a latent of 4."""
        return self.unet.config.in_channels != self.latent_channels

    @property
    def latent_factor(self) -> int:
        """Pixels of the picture per pixel of the latent, on each side."""
        return 1 if self.vae is None else self.vae.config.factor


def is_diffusers_folder(path: Path) -> bool:
    """Whether `path` has a model_index.json, valid or not."""
    return (path / INDEX_FILE).is_file()


def read_folder(path: Path, *, leaving: bool = False) -> DiffusersFolder:
    """Check the diffusers folder `path`: every name and size, every configuration, and the headers of all weights.

    `leaving` allows links out of the folder, as in the Hub's cache: for a folder that is copied, not served.

    Raises:
        FolderError: anything that cannot be served; one line that names the file and the field.
    """
    source = open_source(path, leaving=leaving)
    index = read_json(source.root / INDEX_FILE)
    pipeline, kind = _pipeline(index)
    notes = _check_components(index, kind)
    scheduler_file = read_json(source.root / "scheduler/scheduler_config.json")
    scheduler = parse(Scheduler, scheduler_file)
    if scheduler.class_name != index.fields["scheduler"][1]:
        raise FolderError(scheduler_file.path, f"_class_name: {INDEX_FILE} says {index.fields['scheduler'][1]}")
    unet_kind: type[PixelUNet] | type[TextUNet] = PixelUNet if kind == "pixel" else TextUNet
    folder = DiffusersFolder(
        path=source.root,
        pipeline=pipeline,
        kind=kind,
        index={key: value for key, value in index.fields.items() if not isinstance(value, list)},
        unet=_component(source, index, "unet", unet_kind),
        scheduler=scheduler,
        scheduler_fields=scheduler_file.fields,
        vae=None if kind == "pixel" else _component(source, index, "vae", Vae),
        texts=tuple(_text_part(source, index, name) for name in COMPONENTS[kind] if name.startswith("text_encoder")),
        controlnets=_controlnets(source, index, kind),
        loras=_loras(source, kind),
        options=_options(source),
        notes=notes,
    )
    check_fit(folder)
    return folder


def _pipeline(index: JsonFile) -> tuple[str, Kind]:
    name = index.fields.get("_class_name")
    if not isinstance(name, str) or name not in PIPELINES:
        custom = "a custom pipeline; " if isinstance(name, list) else ""
        raise FolderError(index.path, f"_class_name: {custom}{name} is not served, only {', '.join(PIPELINES)}")
    return name, PIPELINES[name]


def _check_components(index: JsonFile, kind: Kind) -> tuple[str, ...]:
    """The notes about ignored components. Raises FolderError where one is missing, unknown or of another class."""
    entries = {name: value for name, value in index.fields.items() if isinstance(value, list) and name != "_class_name"}
    used = (*COMPONENTS[kind], *(("controlnet",) if kind != "pixel" and "controlnet" in entries else ()))
    for name in used:
        _check_class(index, name, entries.get(name), kind)
    present = {name for name, value in entries.items() if value != [None, None]}
    if unknown := sorted(present - set(used) - set(IGNORED)):
        raise FolderError(index.path, f"{unknown[0]}: this component is not supported")
    if index.fields.get("requires_aesthetics_score"):
        raise FolderError(index.path, "requires_aesthetics_score: refiners are not supported")
    return tuple(f"{name} is not used" for name in IGNORED if name in present)


def _check_class(index: JsonFile, name: str, entry: object, kind: Kind) -> None:
    allowed = classes_of(name, kind)
    if not isinstance(entry, list) or len(entry) != 2 or entry[1] not in allowed:
        given = entry[1] if isinstance(entry, list) and len(entry) == 2 else entry
        raise FolderError(index.path, f"{name}: {given} is not supported, only {', '.join(allowed)}")
    if entry[0] != LIBRARIES.get(entry[1], "diffusers"):
        raise FolderError(index.path, f"{name}: code of the library {entry[0]!r} is not supported")


def _component(source: Source, index: JsonFile, name: str, kind: type[Any]) -> Component[Any]:
    _, class_name = index.fields[name]
    return read_component(source, name, class_name, LIBRARIES[class_name], kind)


def _text_part(source: Source, index: JsonFile, name: str) -> TextPart:
    tokenizer = check_tokenizer(source, name.replace("text_encoder", "tokenizer"))
    return TextPart(_component(source, index, name, TextModel), tokenizer)


def _controlnets(source: Source, index: JsonFile, kind: Kind) -> dict[str, Component[ControlNet]]:
    """The ControlNets by name: "controlnet", or the rest of a folder's name as "canny" of controlnet_canny."""
    found = {}
    for folder in source.folders():
        if not folder.startswith("controlnet") or kind == "pixel":
            continue
        name = re.sub(r"^controlnet[_-](?=.)", "", folder)
        if not _NAME.fullmatch(name) or name in found:
            raise FolderError(source.root / folder, "not the name of a ControlNet")
        found[name] = read_component(source, folder, "ControlNetModel", "diffusers", ControlNet)
    if "controlnet" in index.fields and "controlnet" not in found:
        raise FolderError(source.root / "controlnet", "missing")
    return found


def lora_file(folder: Path, name: str) -> Path:
    """Where the folder has its LoRA `name`."""
    return folder / "loras" / f"{name}.safetensors"


def with_lora(folder: DiffusersFolder, name: str, file: Path) -> DiffusersFolder:
    """`folder` with a LoRA from anywhere in place of its own. Raises FolderError where it could not have one more."""
    _check_lora_names(folder.path, folder.kind, [*folder.loras, name])
    return replace(folder, loras={name: read_weights(file)})


def _loras(source: Source, kind: Kind) -> dict[str, Weights]:
    files = source.names_in("loras")
    names = [name.removesuffix(".safetensors") for name in files if name.endswith(".safetensors")]
    _check_lora_names(source.root, kind, names)
    return {name: read_weights(lora_file(source.root, name)) for name in names}


def _check_lora_names(folder: Path, kind: Kind, names: list[str]) -> None:
    if names and kind == "pixel":
        raise FolderError(folder / "loras", "LoRAs need a text model")
    if len(names) > MAX_LORAS:
        raise FolderError(folder / "loras", f"more than {MAX_LORAS} files")
    for name in names:
        if not _NAME.fullmatch(name):
            raise FolderError(lora_file(folder, name), "use letters, digits, '.', '_' and '-', at most 64")


def _options(source: Source) -> Options:
    if OPTIONS_FILE not in source.files:
        return Options()
    return parse(Options, read_json(source.root / OPTIONS_FILE))


def check_fit(folder: DiffusersFolder) -> None:
    """Raise FolderError where the components do not fit each other."""
    for path, wrong in _misfits(folder):
        raise FolderError(path / "config.json", wrong)


def _misfits(folder: DiffusersFolder) -> Iterator[tuple[Path, str]]:
    unet, options = folder.unet.config, folder.options
    if isinstance(unet, PixelUNet):
        classes = unet.num_class_embeds or 0
        if options.class_names and len(options.class_names) not in (classes, classes - 1):
            yield folder.unet.path, f"num_class_embeds: {classes}, but {OPTIONS_FILE} has other class_names"
        return
    channels, width = folder.latent_channels, sum(text.encoder.config.hidden_size for text in folder.texts)
    if folder.vae is not None and folder.vae.config.latent_channels != channels:
        yield folder.vae.path, f"latent_channels: {folder.vae.config.latent_channels}, but the UNet predicts {channels}"
    if unet.in_channels not in (channels, 2 * channels + 1):
        yield folder.unet.path, f"in_channels: {unet.in_channels} is neither {channels} nor {2 * channels + 1}"
    if unet.cross_attention_dim != width:
        yield folder.unet.path, f"cross_attention_dim: {unet.cross_attention_dim}, but the prompt has width {width}"
    yield from _misfits_of_additions(folder, unet)
    for control in folder.controlnets.values():
        for field in ("cross_attention_dim", "block_out_channels", "addition_embed_type"):
            if getattr(control.config, field) != getattr(unet, field):
                yield (
                    control.path,
                    f"{field}: {getattr(control.config, field)}, but the UNet has {getattr(unet, field)}",
                )
        if control.config.in_channels != channels:
            yield control.path, f"in_channels: {control.config.in_channels}, but the latent has {channels}"


def _misfits_of_additions(folder: DiffusersFolder, unet: TextUNet) -> Iterator[tuple[Path, str]]:
    """What does not fit of SDXL's pooled prompt and six sizes."""
    if (unet.addition_embed_type is not None) != (folder.kind == "xl"):
        yield folder.unet.path, f"addition_embed_type: {unet.addition_embed_type} does not fit {folder.pipeline}"
    elif folder.kind == "xl":
        wanted = 6 * (unet.addition_time_embed_dim or 0) + folder.texts[-1].encoder.config.projection_dim
        if unet.projection_class_embeddings_input_dim != wanted:
            yield folder.unet.path, f"projection_class_embeddings_input_dim: not {wanted}"
    if len({text.encoder.config.max_position_embeddings for text in folder.texts}) > 1:
        yield folder.texts[-1].encoder.path, "max_position_embeddings: differs between the text encoders"
