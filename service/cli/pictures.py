"""`genserve generate`, `film` and `interpolate`: pictures from a service into a file."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from service.cli.asking import asking, print_json, service_of
from service.cli.commands import Commands
from service.cli.progress import follow

if TYPE_CHECKING:
    from service.client import Client, File, Job, Point
    from service.client.fields import Format

FORMATS: dict[str, "Format"] = {
    ".png": "png",
    ".webp": "webp",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".gif": "gif",
    ".npy": "npy",
    ".zip": "zip",
    ".json": "json",
}
STDOUT = Path("-")

Submit = Callable[["Client", argparse.Namespace, dict[str, Any], "Format"], "Job"]


def _readable(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text!r} is no file")
    return Path(text)


#: The options that are fields of a request under their own name.
_FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "n": (int, "how many pictures"),
    "seed": (int, "of the first picture; drawn if absent"),
    "eta": (float, "ancestral noise of the solver ddim"),
    "truncation": (float, "below 1, pictures vary less"),
    "image": (_readable, "a picture to begin from"),
    "strength": (float, "how much of it is made anew"),
    "mask": (_readable, "where it is made anew: white"),
    "preview_every": (int, "steps between two pictures of the film"),
    "preview_kind": (str, "what it shows: x0, xt or both"),
    "fps": (int, "pictures a second of a gif"),
    "frames": (int, "pictures on the path, both ends counted"),
    "method": (str, "linear or slerp"),
    "easing": (str, "linear or cosine"),
    "steps": (int, "solver steps"),
    "solver": (str, "how steps are taken"),
    "guidance_scale": (float, "above 1, the class is exaggerated"),
    "scale": (int, "every pixel becomes so many squared"),
}

_METAVARS: dict[Callable[[str], Any], str] = {int: "INT", float: "FLOAT", str: "NAME"}


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    _add_generate(commands)
    _add_film(commands)
    _add_interpolate(commands)


def _add_generate(commands: Commands) -> None:
    generate = _command(
        commands,
        "generate",
        "make pictures",
        "examples:\n"
        "  genserve generate ddpm --class-label sneaker -n 16 -o grid.png\n"
        "  genserve generate vae --seed 7 --truncation 0.5 --scale 8 -o one.webp\n"
        "  genserve generate ddpm --image one.png --strength 0.4 -o other.png\n"
        "  genserve generate gan -n 64 -o pictures.npy\n",
    )
    _add_fields(generate, "n", "seed", "eta", "truncation", "image", "strength", "mask")
    generate.set_defaults(run=_runner(_submit, ".png"))


def _add_film(commands: Commands) -> None:
    film = _command(
        commands,
        "film",
        "show how a model that denoises comes to its pictures",
        "examples:\n"
        "  genserve film ddpm -o film.gif\n"
        "  genserve film ddpm --class-label bag --steps 50 --preview-every 5 -o film.png\n",
    )
    _add_fields(film, "n", "seed", "preview_every", "preview_kind", "fps")
    film.set_defaults(run=_runner(_submit, ".gif"), layout="film")


def _add_interpolate(commands: Commands) -> None:
    interpolate = _command(
        commands,
        "interpolate",
        "walk from one picture to another",
        "examples:\n"
        "  genserve interpolate vae --from-seed 1 --to-seed 2 -o strip.png\n"
        "  genserve interpolate ddpm --class-label dress --frames 30 --scale 8 -o walk.gif\n",
    )
    for end in ("from", "to"):
        which = interpolate.add_mutually_exclusive_group()
        which.add_argument(
            f"--{end}-seed", type=int, metavar="SEED", help=f"where the path goes {end} (drawn if absent)"
        )
        which.add_argument(f"--{end}-image", type=_readable, metavar="FILE", help=f"{end} which picture")
    _add_fields(interpolate, "frames", "method", "easing", "fps")
    interpolate.set_defaults(run=_runner(_submit_path, ".png"))


def _command(commands: Commands, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    """A command with what all three of them take; a field that is not given stays absent."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=f"{help.capitalize()}. What each field means and allows: docs/API.md.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[asking()],
    )
    command.add_argument("model", help="its name; `genserve models` lists them")
    command.add_argument(
        "-o", "--output", type=_output, metavar="FILE", help=f"- is standard output; else {' '.join(FORMATS)}"
    )
    command.add_argument(
        "--class-label",
        action="append",
        type=_label,
        metavar="CLASS",
        help="name, number or none; again for each picture",
    )
    command.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="FIELD=VALUE",
        help="any other field, JSON or text",
    )
    _add_fields(command, "steps", "solver", "guidance_scale", "scale")
    return command


def _add_fields(command: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        kind, help = _FIELDS[name]
        metavar = _METAVARS.get(kind, "FILE")
        option = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        command.add_argument(option, type=kind, metavar=metavar, help=help)


def _fields(asked: argparse.Namespace) -> dict[str, Any]:
    """What was given."""
    given = {name: value for name in (*_FIELDS, "layout") if (value := getattr(asked, name, None)) is not None}
    labels = asked.class_label or []
    if len(labels) == 1:
        given["class_label"] = labels[0]
    elif labels:
        given = {"n": len(labels), **given, "class_label": labels}
    return given | dict(asked.set)


def _runner(submit: Submit, suffix: str) -> Callable[[argparse.Namespace], int]:
    """The command that has ``submit`` ask for pictures, by default for a file <model><suffix>."""

    def run(asked: argparse.Namespace) -> int:
        output = asked.output or Path(f"{asked.model}{suffix}")
        with service_of(asked) as service:
            job = submit(service, asked, _fields(asked), FORMATS.get(output.suffix, "png"))
            file = follow(job, asked.model)
            params = job.status().params if asked.json else None
            _write(file, output)
        _tell(file, output, params)
        return 0

    return run


def _submit(service: "Client", asked: argparse.Namespace, fields: dict[str, Any], format: "Format") -> "Job":
    return service.submit(asked.model, format=format, **fields)


def _submit_path(service: "Client", asked: argparse.Namespace, fields: dict[str, Any], format: "Format") -> "Job":
    ends = [_end(asked.from_seed, asked.from_image), _end(asked.to_seed, asked.to_image)]
    return service.submit_path(asked.model, *ends, format=format, **fields)


def _end(seed: int | None, image: Path | None) -> "Point":
    found = {"seed": seed, "image": image}
    return cast("Point", {name: value for name, value in found.items() if value is not None})


def _write(file: "File", output: Path) -> None:
    if output == STDOUT:
        sys.stdout.buffer.write(file.content)
    else:
        file.save(output)


def _tell(file: "File", output: Path, params: dict[str, Any] | None) -> None:
    """What was made, where it does not get into it."""
    if params is not None and output != STDOUT:
        about = {"model": file.model, "model_version": file.model_version, "seeds": file.seeds}
        print_json({"file": str(output), "media_type": file.media_type, **about, "params": params})
    else:
        seeds = ", ".join(str(seed) for seed in file.seeds[:2]) + (", ..." if file.seeds[2:] else "")
        told = f"{output}: {file.model} {file.model_version}, seeds {seeds}"
        print(told, file=sys.stderr if output == STDOUT else sys.stdout)


def _output(text: str) -> Path:
    path = Path(text)
    if path != STDOUT and path.suffix not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} ends with none of {' '.join(FORMATS)}")
    return path


def _label(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _setting(text: str) -> tuple[str, Any]:
    """A field and its value, JSON or else a text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
