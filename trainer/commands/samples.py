"""The command `samples`: a fixed grid of a model's images, for a README or to compare two runs."""

import argparse
from pathlib import Path
from typing import get_args

import torch

from service.contract.manifest import SolverName
from trainer.commands.options import (
    UsageError,
    add_command,
    add_device,
    add_overwrite,
    device_of,
    positive,
    scale,
    seed,
)
from trainer.evaluate.pictures import Sampler, make_sampler
from trainer.evaluate.sheets import labelled_sheet
from trainer.evaluate.subject import load_subject
from trainer.files import write
from trainer.generate import draw_grid, pictures_of, to_png
from trainer.models.text_parts import TextParts
from trainer.text.prompts import GRID_COLUMNS, PROMPTS

EXAMPLES = """\
examples:
  python -m trainer samples runs/emoji emoji.png                 images of fixed prompts, with fixed seeds
  python -m trainer samples weights/emoji emoji.png --steps 10 --guidance-scale 3    another sampler than the default
  python -m trainer samples runs/vae vae.png                     a grid with a class in each column
"""


def add_samples(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add samples to the trainer's command line."""
    summary = "draw a fixed grid of images: of fixed prompts for a text-to-image model, of classes for another"
    command = add_command(commands, "samples", summary, EXAMPLES)
    command.set_defaults(command=_samples)
    command.add_argument("target", type=Path, metavar="weights/NAME|RUN", help="folder of a model or of a run")
    command.add_argument("out", type=Path, metavar="FILE", help="PNG file to write")
    command.add_argument("--seed", type=seed, default=0, help="of the first prompt; prompt i has seed + i (default: 0)")
    command.add_argument("--steps", type=positive, help="solver steps (default: the model's)")
    command.add_argument("--solver", choices=get_args(SolverName), help="(default: the model's)")
    command.add_argument("--guidance-scale", type=scale, help="1 means no guidance (default: the model's)")
    add_device(command)
    add_overwrite(command, "replace FILE")


def _samples(options: argparse.Namespace) -> None:
    if options.out.exists() and not options.overwrite:
        raise UsageError(f"{options.out} exists: choose another file, or add --overwrite")
    device = device_of(options)
    parts = load_subject(options.target, device).parts
    if isinstance(parts, TextParts):
        sampler = make_sampler(parts, options.solver, options.steps, options.guidance_scale)
        write(options.out, prompt_sheet(parts, sampler, options.seed, device))
    else:
        _reject_sampler(options)
        write(options.out, to_png(draw_grid(parts, device, None)))
    print(options.out)


def prompt_sheet(parts: TextParts, sampler: Sampler, first_seed: int, device: torch.device) -> bytes:
    """``PROMPTS`` and an image of each as PNG; image i has seed ``first_seed`` + i."""
    seeds = range(first_seed, first_seed + len(PROMPTS))
    made = pictures_of(parts, PROMPTS, seeds, device, sampler.plan, sampler.guidance_scale)
    return labelled_sheet(PROMPTS, [made.permute(0, 3, 1, 2)], GRID_COLUMNS)


def _reject_sampler(options: argparse.Namespace) -> None:
    given = {
        "--seed": options.seed != 0,
        "--steps": options.steps is not None,
        "--solver": options.solver is not None,
        "--guidance-scale": options.guidance_scale is not None,
    }
    for option, used in given.items():
        if used:
            raise UsageError(f"{option}: only for a text-to-image model; the grid of classes is always the same")
