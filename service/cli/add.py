"""`genserve add`: check a model's folder, put it into the weights folder, and print what it can do."""

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from service.cli.about import table
from service.cli.commands import Commands
from service.cli.extras import needing
from service.cli.terminal import CommandError, stopping_signals

if TYPE_CHECKING:
    from service.contract.manifest import Manifest
    from service.contract.pipeline import Pipeline

WEIGHTS_VARIABLE = "GENSERVE_WEIGHTS_DIR"
EXAMPLES = """examples:
  genserve add fox                                 copy the folder fox, which pipe.save_pretrained wrote, to weights/fox
  genserve add ~/models/fox-v2 --link --name fox2  link to it instead, under another name
  genserve add runs/pets-export --name pets        a folder that `python -m trainer export` wrote
  genserve add ink.safetensors --lora-of fox       a LoRA of the model fox, for requests with "lora": "ink"

A folder of the Hugging Face cache has links to other folders; a copy has files in their place. Nothing is overwritten,
and a failure leaves nothing behind. Folders in diffusers' format need `pip install 'genserve[diffusers]'`.
"""
#: The libraries report on standard error what the one line of an error says.
_QUIET = {
    "DIFFUSERS_VERBOSITY": "critical",
    "TRANSFORMERS_VERBOSITY": "critical",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_GIB = 1 << 30


def add_commands(commands: Commands) -> None:
    """Add it to ``commands``."""
    add = commands.add_parser(
        "add",
        help="check a model's folder, and copy or link it into the weights folder",
        description="Check a model's folder as the service does, copy or link it into the weights folder, and print "
        "what it can do.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("source", metavar="FOLDER", type=Path, help="a folder in diffusers' format, or an exported model")
    way = add.add_mutually_exclusive_group()
    way.add_argument("--copy", action="store_true", help="copy the files (the default)")
    way.add_argument("--link", action="store_true", help="make a symbolic link to the folder")
    way.add_argument("--lora-of", metavar="MODEL", help="FOLDER is a LoRA, a .safetensors file, of this model")
    add.add_argument("--name", help="the name in requests (default: that of the folder or file)")
    weights = Path(os.environ.get(WEIGHTS_VARIABLE) or "weights")
    text = f"the weights folder (default: ${WEIGHTS_VARIABLE}, else weights)"
    add.add_argument("--weights", metavar="DIR", type=Path, default=weights, help=text)
    add.set_defaults(run=_add)


def _add(arguments: argparse.Namespace) -> int:
    os.environ.update(_QUIET)
    with needing("serve"):
        from service.models.adding import add_folder, add_lora  # not at the top: they import torch
        from service.models.folders import Unusable

    source, weights, name = arguments.source, arguments.weights, arguments.name
    try:
        with stopping_signals():
            if arguments.lora_of is None:
                manifest = add_folder(source, weights, name, link=arguments.link)
                print("\n".join(_described(manifest, weights, arguments.link)))
            else:
                path = add_lora(source, weights, arguments.lora_of, name)
                print(f'{path}: a LoRA of {arguments.lora_of}; requests choose it by "lora": "{path.stem}"')
    except Unusable as failure:
        raise CommandError(str(failure)) from None
    return 0


def _described(manifest: "Manifest", weights: Path, link: bool) -> list[str]:
    """What the added model is and can do, and how to serve it."""
    pipeline, way = manifest.pipeline, "linked" if link else "copied"
    kind = manifest.family if pipeline is None else pipeline.class_name
    facts = _facts(manifest) if pipeline is None else _facts_of_pipeline(manifest, pipeline)
    rows = [(f"  {name}", text) for name, text in facts]
    return [
        f"{weights / manifest.name}: {kind}, version {manifest.version}, {way}",
        *table(rows),
        f"Serve it with `genserve serve`; a running service loads it by `genserve load {manifest.name}`.",
    ]


def _facts(manifest: "Manifest") -> Iterator[tuple[str, str]]:
    """Of an exported model."""
    _, height, width = manifest.image_shape
    yield "tasks", ", ".join(manifest.capabilities)
    yield "size", f"{width} x {height}"
    if manifest.class_names:
        yield "classes", str(len(manifest.class_names))
    yield from _defaults(manifest)


def _defaults(manifest: "Manifest") -> Iterator[tuple[str, str]]:
    if (defaults := manifest.defaults) is not None:
        yield "steps", f"{defaults.steps}, guidance {defaults.guidance_scale:g}"


def _facts_of_pipeline(manifest: "Manifest", pipeline: "Pipeline") -> Iterator[tuple[str, str]]:
    """Of a folder in diffusers' format."""
    yield "tasks", ", ".join(task.replace("-", " ") for task in pipeline.tasks)
    yield "size", _sizes(pipeline)
    if pipeline.tokens:
        yield "prompts", f"{pipeline.tokens - 2} tokens{', with negative prompts' if pipeline.negative_prompt else ''}"
    if manifest.class_names:
        yield "classes", f"{len(manifest.class_names)}{', or none' if pipeline.no_class else ''}"
    yield "solver", _solver(manifest, pipeline)
    yield from _defaults(manifest)
    for title, names in (("ControlNets", pipeline.controls), ("LoRAs", pipeline.loras)):
        if names:
            yield title, ", ".join(names)
    yield "licence", pipeline.licence or "not stated"
    yield "memory", _memory(manifest)
    yield from (("note", note) for note in pipeline.notes)


def _sizes(pipeline: "Pipeline") -> str:
    sizes = pipeline.sizes
    own = f"{sizes.width} x {sizes.height}"
    if sizes.smallest > sizes.largest:
        return own
    return f"{own}; sides from {sizes.smallest} to {sizes.largest}, multiples of {sizes.multiple}"


def _solver(manifest: "Manifest", pipeline: "Pipeline") -> str:
    """The solver of requests that name none, the folder's scheduler, and the other solvers."""
    own = manifest.defaults.solver if manifest.defaults else ""
    others = ", ".join(each for each in pipeline.solvers if each != own)
    return f"{own} for {pipeline.scheduler.get('_class_name')}{f'; also {others}' if others else ''}"


def _memory(manifest: "Manifest") -> str:
    """What the weights need, and whether this machine has it."""
    import torch

    from service.models.diffusers.model import bytes_of_weights
    from service.process import available_bytes

    cpu, gpu = (bytes_of_weights(manifest, torch.device(name)) for name in ("cpu", "cuda"))
    free = available_bytes()
    short = f"; WARNING: only {_gib(free)} are free on this machine" if cpu > free else ""
    return f"{_gib(cpu)} of weights on a CPU, {_gib(gpu)} on a GPU, besides that for computing{short}"


def _gib(count: int) -> str:
    return f"{count / _GIB:.1f} GiB" if count >= _GIB // 10 else f"{count / (1 << 20):.1f} MiB"
