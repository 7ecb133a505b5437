"""`genserve generate`, `film` and `interpolate`: pictures from a service into a file."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from service.cli.asking import asking, print_json, service_of
from service.cli.commands import Commands
from service.cli.files import read_input
from service.cli.progress import follow
from service.cli.terminal import CommandError, say

if TYPE_CHECKING:
    from service.client import File, Point
    from service.client.calls import Call
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

CallOf = Callable[[argparse.Namespace, dict[str, Any]], "Call[Any]"]


def _picture(text: str) -> bytes:
    try:
        return read_input(text)
    except CommandError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from None


#: The options that are fields of a request under their own name.
_FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "n": (int, "how many pictures"),
    "seed": (int, "of the first picture; drawn if absent"),
    "eta": (float, "ancestral noise of the solver ddim"),
    "truncation": (float, "below 1, pictures vary less"),
    "image": (_picture, "a picture to begin from"),
    "strength": (float, "how much of it is made anew"),
    "mask": (_picture, "where it is made anew: white"),
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
    generate.set_defaults(run=_runner(_generation, ".png"))


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
    film.set_defaults(run=_runner(_generation, ".gif"), layout="film")


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
        which.add_argument(f"--{end}-image", type=_picture, metavar="FILE", help=f"{end} which picture")
    _add_fields(interpolate, "frames", "method", "easing", "fps")
    interpolate.set_defaults(run=_runner(_path, ".png"))


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


def _runner(call_of: CallOf, suffix: str) -> Callable[[argparse.Namespace], int]:
    """The command that makes the pictures of ``call_of`` a job, by default into a file <model><suffix>."""

    def run(asked: argparse.Namespace) -> int:
        fields = _fields(asked)
        output, format = _destination(asked, fields.pop("format", None), suffix)
        with service_of(asked) as service:
            from service.client import calls

            status = service.send(calls.submitted(call_of(asked, fields), format))
            job = service.job(status.id)
            file = follow(job, asked.model)
            params = job.status().params if asked.json else None
            _write(file, output)
        _tell(file, output, params)
        return 0

    return run


def _destination(asked: argparse.Namespace, format: Any, suffix: str) -> tuple[Path, "Format"]:  # noqa: ANN401
    """Where pictures go, and in which form: that of the file's name, which ``format`` of --set may not contradict."""
    own = asked.output and FORMATS.get(asked.output.suffix.lower())
    if own and format not in (None, own):
        raise CommandError(f"{asked.output} is to be {own}, and --set format={format} says otherwise")
    named = next((ending for ending, each in FORMATS.items() if each == format), suffix)
    output = asked.output or Path(f"{asked.model}{named}")
    return output, cast("Format", own or format or FORMATS.get(output.suffix, "png"))


def _generation(asked: argparse.Namespace, fields: dict[str, Any]) -> "Call[Any]":
    from service.client import calls

    return calls.generate(asked.model, fields)


def _path(asked: argparse.Namespace, fields: dict[str, Any]) -> "Call[Any]":
    from service.client import calls

    ends = [_end(asked.from_seed, asked.from_image), _end(asked.to_seed, asked.to_image)]
    return calls.interpolate(asked.model, ends, fields)


def _end(seed: int | None, image: bytes | None) -> "Point":
    found = {"seed": seed, "image": image}
    return cast("Point", {name: value for name, value in found.items() if value is not None})


def _write(file: "File", output: Path) -> None:
    if output == STDOUT:
        sys.stdout.buffer.write(file.content)
        sys.stdout.flush()
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
        if output == STDOUT:
            say(told)
        else:
            print(told)


def _output(text: str) -> Path:
    path = Path(text)
    if path != STDOUT and path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} ends with none of {' '.join(FORMATS)}")
    return path


def _setting(text: str) -> tuple[str, Any]:
    """A field and its value, JSON or else a text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
