"""Export of a finished run to weights/<name>/: script, compare, write the files, and replace the manifest last.

TorchScript is deprecated upstream; all scripting is in this file, so that another format changes this file only.
"""

import base64
import copy
import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from service.contract.artifact import write_artifact, write_latents, write_words
from service.contract.files import ContractError, replacing
from service.contract.manifest import (
    Artifact,
    Capability,
    Dataset,
    Golden,
    Manifest,
    ManifestFamily,
    Training,
    artifact_file,
    read_manifest,
    write_manifest,
)
from service.contract.signature import SecretKey
from service.contract.text import TextModel, WordsFile, words_file
from service.sampling.latent_map import pack
from trainer import card, suggestions
from trainer.config import RunConfig, train_command
from trainer.data import DataFacts, ImageData
from trainer.encode import latent_map
from trainer.generate import default_plan, draw_grid, generate, pictures_of, to_png
from trainer.model_config import Family
from trainer.models.parts import Parts, random_times
from trainer.models.text_parts import TextParts, random_text_inputs
from trainer.objectives import build
from trainer.run import checkpoint
from trainer.text.words import words_payload

#: Absolute and relative: float32 rounds large outputs at 1e-7 of their size.
TOLERANCE = 1e-5
COMPARED_BATCHES = (1, 2, 7)
GOLDEN_SEED, GOLDEN_PROMPT = 0, "red heart"

CAPABILITIES: dict[Family, tuple[Capability, ...]] = {
    "autoencoder": ("encode", "decode"),
    "vae": ("generate", "interpolate", "encode", "decode"),
    "gan": ("generate", "interpolate", "decode"),
    "ddpm": ("generate", "interpolate"),
    "ldm": ("generate", "interpolate", "encode", "decode"),
    "few-step": ("generate", "interpolate"),
    "text": ("generate", "interpolate"),
    "control": ("generate", "interpolate"),
    "few-step-text": ("generate", "interpolate"),
}


def manifest_family(family: Family) -> ManifestFamily:
    """The family in the manifest: to the service a tuned or captioned diffusion model is a diffusion model."""
    known: dict[str, ManifestFamily] = {name: name for name in get_args(ManifestFamily)}
    return known.get(family, "ddpm")


class ExportError(Exception):
    """The run cannot be exported; the message says why. The existing model is unchanged."""


def needs_pictures(config: RunConfig) -> bool:
    """Whether the export needs the training images: for a latent map, or for the drawings among the samples."""
    return "encode" in CAPABILITIES[config.family] or config.family == "control"


def export(
    run: Path,
    target: Path,
    data: ImageData | None,
    *,
    pictographs: Mapping[str, str] | None = None,
    unfinished: bool = False,
    changed_data: bool = False,
    key: SecretKey | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write the averaged generator of ``run`` to ``target`` as TorchScript.

    ``data`` are the training images where ``needs_pictures``: a model with an encoder gets a latent map of them,
    latents-<sha8>.npz. A text-to-image model gets words-<sha8>.json with its tokenizer and the names of
    ``pictographs``. ``unfinished`` accepts a run before its last step, ``changed_data`` other images of the same shape
    and classes. ``key`` signs the manifest. ``report`` gets a line before each slow part.

    ``target`` (weights/NAME) gets model-<sha8>.pt, card.md, samples.png and, last, manifest.json. Until the manifest is
    replaced the previous one stays valid; its weights are kept for a rollback. The run is checked completely before the
    first file is written.

    Raises CheckpointError when the run cannot be read; ExportError when it is not finished, when its images differ,
    when the scripted network differs from the eager one, or when ``target`` cannot be written.
    """
    config, state = checkpoint.load(run)
    require_finished(run, config, state, unfinished=unfinished)
    if needs_pictures(config):
        data = _training_data(data, state, changed_data=changed_data)
    parts = averaged_parts(config, state)
    report("scripting the networks")
    payload = script(parts)
    loaded = load(payload, parts)
    compare(parts, loaded)
    codes = words = None
    if loaded.encode is not None and data is not None:
        report("encoding pictures for the latent map")
        codes = pack(latent_map(loaded, data))
    if isinstance(loaded, TextParts):
        words = words_payload(loaded.tokenizer, pictographs or {})
    manifest = _with_scores(target, _manifest(target.name, config, state, loaded, payload, words))
    report("drawing the samples of the card")
    samples = to_png(draw_grid(loaded, torch.device("cpu"), data))
    try:
        return _publish(target, payload, codes, words, manifest, card.render(manifest, config), samples, key)
    except (OSError, ContractError) as failure:
        raise ExportError(f"{target} cannot be written: {failure}") from failure


def averaged_parts(config: RunConfig, state: dict[str, Any]) -> Parts:
    """The parts of a checkpoint's averaged generator: float32, on the CPU, frozen in eval mode.

    The weights of a text-to-image model are rounded to float16, as they are exported.
    """
    facts = DataFacts(**state["data"])
    objective = build(config, facts.image_shape, len(facts.class_names), torch.device("cpu"))
    objective.recall(state.get("notes", {}))
    objective.generator.load_state_dict(checkpoint.generator(state))
    parts = objective.parts(objective.generator)
    for part in _named(parts).values():
        # The service measures on its own machine whether channels-last is faster.
        part.eval().requires_grad_(False).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        if isinstance(parts, TextParts):
            for weight in part.parameters():
                weight.copy_(weight.half())
    return parts


class Container(nn.Module):
    """The parts as named submodules; it has no forward, and each part has only a forward."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        for name, part in _named(parts).items():
            self.add_module(name, part)


def script(parts: Parts) -> bytes:
    """The TorchScript file of ``parts``; equal parts give equal bytes on every machine.

    The weights of a text-to-image model are stored as float16, in half of the bytes; ``averaged_parts`` rounded them.
    Raises ExportError when a scripted part does not agree with the eager one.
    """
    scripted = torch.jit.script(Container(parts))
    compare(parts, _with_modules(parts, scripted))
    return archive(_in_float16(parts) if isinstance(parts, TextParts) else scripted)


def _in_float16(parts: Parts) -> Container:
    """A copy with weights in float16; buffers, such as the tables of a schedule, keep their precision."""
    copied = copy.deepcopy(Container(parts))
    for weight in copied.parameters():
        weight.data = weight.data.half()
    return copied


def archive(module: nn.Module) -> bytes:
    """The TorchScript file of a module, without records that differ between machines."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    return _without_debug_records(file.getvalue())


def load(payload: bytes, parts: Parts) -> Parts:
    """``parts`` with the modules of ``payload``, a file of ``script``."""
    container = torch.jit.load(io.BytesIO(payload), map_location="cpu")  # type: ignore[no-untyped-call]
    container.float()
    return _with_modules(parts, container)


@torch.inference_mode()
def compare(eager: Parts, scripted: Parts) -> None:
    """Raise ExportError unless all parts agree within 1e-5 on random inputs of several batch sizes."""
    other = _named(scripted)
    for batch in COMPARED_BATCHES:
        inputs = _random_inputs(eager, batch)
        for name, part in _named(eager).items():
            results = other[name](*inputs[name]), part(*inputs[name])
            try:
                torch.testing.assert_close(*results, rtol=TOLERANCE, atol=TOLERANCE)
            except AssertionError as failure:
                reason = " ".join(str(failure).split())
                raise ExportError(f"the scripted {name} differs from the eager one: {reason}") from failure


def _named(parts: Parts) -> dict[str, nn.Module]:
    modules = {"encode": parts.encode, "denoise": parts.denoise, "decode": parts.decode}
    if isinstance(parts, TextParts):
        modules["encode_text"] = parts.encode_text
    return {name: module for name, module in modules.items() if module is not None}


def _with_modules(parts: Parts, container: nn.Module) -> Parts:
    modules: dict[str, Any] = dict(container.named_children())
    return dataclasses.replace(parts, **modules)


def _without_debug_records(payload: bytes) -> bytes:
    """The archive without source positions, which name local folders, and without their hash; constants sorted."""
    kept = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(payload)) as source, zipfile.ZipFile(kept, "w") as target:
        for name in source.namelist():
            if not name.endswith((".debug_pkl", ".data/serialization_id")):
                record = source.read(name)
                target.writestr(zipfile.ZipInfo(name), _in_order(record) if name.endswith(".py") else record)
    return kept.getvalue()


def _in_order(code: bytes) -> bytes:
    """A module's code with sorted constants: torch writes them in the random order of a set."""
    runs = groupby(code.splitlines(keepends=True), lambda line: b" : Final[" in line)
    return b"".join(line for constant, lines in runs for line in (sorted(lines) if constant else lines))


def _random_inputs(parts: Parts, batch: int) -> dict[str, tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(batch)
    if isinstance(parts, TextParts):
        return random_text_inputs(parts, batch, generator)
    label = torch.randint(parts.classes + 1, (batch,), generator=generator)
    image = 2 * torch.rand(batch, *parts.image_shape, generator=generator) - 1
    latent = torch.randn(batch, *parts.latent_shape, generator=generator)
    inputs: dict[str, tuple[Tensor, ...]] = {"encode": (image, label), "decode": (latent, label)}
    if parts.diffusion is not None:
        inputs["denoise"] = (latent, random_times(parts.diffusion, batch, generator), label)
    return inputs


def require_finished(run: Path, config: RunConfig, state: dict[str, Any], *, unfinished: bool = False) -> None:
    """Raise ExportError before the last step of the run; with ``unfinished`` only before its first step."""
    step, total = state["step"], config.total_steps(state["data"]["images"])
    if step >= total or (unfinished and step):
        return
    done = f"{step:,} of {total:,} steps are done"
    commands = f"Resume it with: {suggestions.resume(config, run)}"
    if step:
        commands += f" Or export it now with: {suggestions.export(run, '--unfinished')}"
    raise ExportError(f"{run} is not finished: {done}. {commands}")


def _training_data(data: ImageData | None, state: dict[str, Any], *, changed_data: bool) -> ImageData:
    """``data``. Raises ExportError unless it is the training data of the run."""
    if data is None:
        raise ExportError("a model with an encoder needs its training images: name their folder with --data-dir")
    if problem := checkpoint.data_difference(state, data, changed_data=changed_data):
        raise ExportError(
            f"the run was trained on other data: {problem}. "
            "Name the original folder with --data-dir, or add --changed-data"
        )
    return data


def _manifest(
    name: str, config: RunConfig, state: dict[str, Any], parts: Parts, payload: bytes, words: bytes | None
) -> Manifest:
    diffusion, facts = parts.diffusion, DataFacts(**state["data"])
    sha256 = hashlib.sha256(payload).hexdigest()
    try:
        return Manifest(
            schema_version=1,
            name=name,
            family=manifest_family(config.family),
            image_shape=facts.image_shape,
            latent_shape=parts.latent_shape,
            x0_range=diffusion.x0_range if diffusion else None,
            class_names=facts.class_names,
            noise_schedule=diffusion.noise_schedule if diffusion else None,
            t_max=diffusion.t_max if diffusion else None,
            capabilities=CAPABILITIES[config.family],
            defaults=diffusion.defaults if diffusion else None,
            inference_dtype="float32",
            artifact=Artifact(format="torchscript", file=artifact_file(sha256), size=len(payload), sha256=sha256),
            dataset=Dataset(name=facts.name, licence=facts.licence, source=facts.source, images=facts.images),
            training=_training(config, state, parts),
            text=_text(parts, words),
            golden=_golden(parts),
            torch_version=torch.__version__.split("+")[0],
            created=datetime.now(UTC).date().isoformat(),
        )
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ExportError(f"the manifest's {field} would be invalid: {first['msg']}") from failure


def _text(parts: Parts, words: bytes | None) -> TextModel | None:
    if not isinstance(parts, TextParts) or words is None:
        return None
    sha256 = hashlib.sha256(words).hexdigest()
    named = WordsFile(file=words_file(sha256), size=len(words), sha256=sha256)
    return TextModel(
        tokens=parts.tokens,
        width=parts.context,
        vocabulary=parts.tokenizer.get_vocab_size(),
        words=named,
        hint_shape=parts.hint_shape,
    )


def _with_scores(target: Path, manifest: Manifest) -> Manifest:
    """``manifest`` with the scores of the model in ``target`` if its weights are equal: measuring them takes long."""
    try:
        before = read_manifest(target)
    except ContractError:
        return manifest
    if before.artifact.sha256 != manifest.artifact.sha256:
        return manifest
    return manifest.model_copy(update={"quality": before.quality})


def _training(config: RunConfig, state: dict[str, Any], parts: Parts) -> Training:
    # Counted by address, because parts can share a network, as encode and decode of a VAE share its prior.
    parameters = {value.data_ptr(): value.numel() for value in Container(parts).parameters()}
    return Training(
        command=train_command(config),
        epochs=round(state["step"] / (state["data"]["images"] // config.batch_size), 2),
        images_seen=state["step"] * config.batch_size,
        seconds=round(state["seconds"], 1),
        device=state["device"],
        precision=config.precision,
        seed=config.seed,
        parameters=sum(parameters.values()),
        losses=state["losses"],
        ema_decay=config.ema_decay,
        kept_epoch=state["best"] and state["best"]["epoch"],
        settings=config.model_dump(mode="json"),
    )


def _golden(parts: Parts) -> Golden | None:
    """The image for the service's self-test; None for a model that does not generate."""
    if not parts.generates:
        return None
    prompt = GOLDEN_PROMPT if isinstance(parts, TextParts) else None
    if isinstance(parts, TextParts):
        (picture,) = pictures_of(parts, [GOLDEN_PROMPT], [GOLDEN_SEED], torch.device("cpu"), guidance_scale=1.0)
    else:
        (picture,) = generate(parts, torch.zeros(1, dtype=torch.int64), [GOLDEN_SEED], default_plan(parts))
    defaults = parts.diffusion.defaults if parts.diffusion else None
    return Golden(
        seed=GOLDEN_SEED,
        class_label=0,
        steps=defaults.steps if defaults else None,
        solver=defaults.solver if defaults else None,
        picture=base64.b64encode(picture.numpy().tobytes()).decode(),
        prompt=prompt,
    )


def _publish(
    target: Path,
    payload: bytes,
    codes: bytes | None,
    words: bytes | None,
    manifest: Manifest,
    text: str,
    samples: bytes,
    key: SecretKey | None,
) -> Manifest:
    """Write all files; returns the written manifest, which names the latent map."""
    target.mkdir(parents=True, exist_ok=True)
    write_artifact(target, payload)
    if codes is not None:
        manifest = manifest.model_copy(update={"latents": write_latents(target, codes)})
    if words is not None:
        write_words(target, words)
    for name, content in (("card.md", text.encode()), ("samples.png", samples)):
        with replacing(target / name, content):
            pass
    write_manifest(target, manifest, key)
    return manifest
