"""`genserve generate`, `film` and `interpolate`: write pictures of a service into a file."""

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
from service.cli.size import comfortable_scale, is_enlarged
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
#: Pictures on a path whose request names no number.
FRAMES = 10

CallOf = Callable[[argparse.Namespace, dict[str, Any]], "Call[Any]"]


def _picture(text: str) -> bytes:
    try:
        return read_input(text)
    except CommandError as failure:
        raise argparse.ArgumentTypeError(str(failure)) from None


def _text(text: str) -> str:
    return text


def _lora(text: str) -> str | dict[str, Any]:
    """NAME or NAME:SCALE."""
    name, colon, scale = text.rpartition(":")
    try:
        return {"name": name, "scale": float(scale)} if colon else text
    except ValueError:
        raise argparse.ArgumentTypeError(f"{scale!r} is not a number") from None


#: Options that are fields of a request with the same name: type and help.
_FIELDS: dict[str, tuple[Callable[[str], Any], str]] = {
    "n": (int, "number of pictures"),
    "seed": (int, "seed of the first picture (default: random)"),
    "prompt": (_text, "what the picture shows"),
    "negative_prompt": (_text, "what guidance leads away from"),
    "width": (int, "width in pixels"),
    "height": (int, "height in pixels"),
    "lora": (_lora, "a LoRA of the model, and how much of it is added"),
    "control_image": (_picture, "picture that guides the composition"),
    "control_scale": (float, "strength of the control image"),
    "eta": (float, "noise of the solver ddim, 0 to 1"),
    "truncation": (float, "below 1: less variation"),
    "image": (_picture, "picture to start from"),
    "strength": (float, "how much of it changes"),
    "mask": (_picture, "where it changes: white"),
    "preview_every": (int, "steps between two frames of the film"),
    "preview_kind": (str, "x0 (prediction), xt (noisy state) or both"),
    "fps": (int, "frames per second of a gif"),
    "frames": (int, "pictures on the path, with both ends"),
    "method": (str, "linear or slerp"),
    "easing": (str, "linear or cosine"),
    "steps": (int, "solver steps"),
    "solver": (str, "name of the solver"),
    "guidance_scale": (float, "above 1: stronger influence of the prompt or class"),
    "scale": (
        int,
        "enlarge each pixel to SCALE x SCALE (default: pictures of about 250 pixels; 1: as they are)",
    ),
}

_METAVARS: dict[Callable[[str], Any], str] = {
    int: "INT",
    float: "FLOAT",
    str: "NAME",
    _text: "TEXT",
    _lora: "NAME[:SCALE]",
}
#: Options of models that read prompts, and those of pictures alone.
_TEXTS = ("prompt", "negative_prompt", "width", "height", "lora")
_PROMPTS = (*_TEXTS, "control_image", "control_scale")


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    _add_generate(commands)
    _add_film(commands)
    _add_interpolate(commands)


def _add_generate(commands: Commands) -> None:
    generate = _command(
        commands,
        "generate",
        "generate pictures",
        "examples:\n"
        "  genserve generate ddpm --class-label sneaker -n 16 -o grid.png\n"
        "  genserve generate vae --seed 7 --truncation 0.5 --scale 1 -o one.webp\n"
        "  genserve generate ddpm --image one.png --strength 0.4 -o other.png\n"
        "  genserve generate gan -n 64 -o pictures.npy\n"
        "  genserve generate sd --prompt lighthouse --lora ink:0.7 -o lighthouse.png\n",
    )
    _add_fields(generate, "n", "seed", "eta", "truncation", "image", "strength", "mask", *_PROMPTS)
    generate.set_defaults(run=_runner(_generation, ".png"))


def _add_film(commands: Commands) -> None:
    film = _command(
        commands,
        "film",
        "show how a diffusion model develops its pictures",
        "examples:\n"
        "  genserve film ddpm -o film.gif\n"
        "  genserve film ddpm --class-label bag --steps 50 --preview-every 5 -o film.png\n",
    )
    _add_fields(film, "n", "seed", "preview_every", "preview_kind", "fps", *_PROMPTS)
    film.set_defaults(run=_runner(_generation, ".gif"), layout="film")


def _add_interpolate(commands: Commands) -> None:
    interpolate = _command(
        commands,
        "interpolate",
        "generate the pictures between two pictures",
        "examples:\n"
        "  genserve interpolate vae --from-seed 1 --to-seed 2 -o strip.png\n"
        "  genserve interpolate ddpm --class-label dress --frames 30 -o walk.gif\n"
        "  genserve interpolate sd --from-seed 1 --from-prompt hut --to-seed 1 --to-prompt castle -o walk.gif\n",
    )
    for end, which_end in (("from", "start"), ("to", "end")):
        which = interpolate.add_mutually_exclusive_group()
        which.add_argument(
            f"--{end}-seed", type=int, metavar="SEED", help=f"seed of the path's {which_end} (default: random)"
        )
        which.add_argument(f"--{end}-image", type=_picture, metavar="FILE", help=f"picture of the path's {which_end}")
        interpolate.add_argument(f"--{end}-prompt", metavar="TEXT", help=f"prompt of the path's {which_end}")
    _add_fields(interpolate, "frames", "method", "easing", "fps", *_TEXTS)
    interpolate.set_defaults(run=_runner(_path, ".png"))


def _command(commands: Commands, name: str, help: str, examples: str) -> argparse.ArgumentParser:
    """A command with the common options; an option that is not given is not sent."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=help,
        description=f"{help.capitalize()}. docs/API.md explains the fields.",
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[asking()],
    )
    command.add_argument("model", help="its name, from `genserve models`")
    command.add_argument(
        "-o", "--output", type=_output, metavar="FILE", help=f"- is standard output; else {' '.join(FORMATS)}"
    )
    command.add_argument(
        "--class-label",
        action="append",
        metavar="CLASS",
        help="name, number or none; repeat it for each picture",
    )
    command.add_argument(
        "--set",
        action="append",
        type=_setting,
        default=[],
        metavar="FIELD=VALUE",
        help="any other field, as JSON or text",
    )
    _add_fields(command, "steps", "solver", "guidance_scale", "scale")
    return command


def _add_fields(command: argparse.ArgumentParser, *names: str) -> None:
    for name in names:
        kind, help = _FIELDS[name]
        metavar = _METAVARS.get(kind, "FILE")
        option = f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}"
        command.add_argument(option, type=kind, metavar=metavar, help=help)


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields that were given."""
    given = {name: value for name in (*_FIELDS, "layout") if (value := getattr(arguments, name, None)) is not None}
    labels = arguments.class_label or []
    if len(labels) == 1:
        given["class_label"] = labels[0]
    elif labels:
        given = {"n": len(labels), **given, "class_label": labels}
    return given | dict(arguments.set)


def _runner(call_of: CallOf, suffix: str) -> Callable[[argparse.Namespace], int]:
    """A command that runs ``call_of`` as a job and writes its result, by default into <model><suffix>."""

    def run(arguments: argparse.Namespace) -> int:
        fields = _fields(arguments)
        output, format = _destination(arguments, fields.pop("format", None), suffix)
        with service_of(arguments) as service:
            from service.client import calls

            if is_enlarged(fields, format):
                _, height, width = service.model(arguments.model).image_shape
                path = {"frames": FRAMES} if call_of is _path else {}
                fields["scale"] = comfortable_scale(path | fields, format, height, width)
            status = service.send(calls.submitted(call_of(arguments, fields), format))
            job = service.job(status.id)
            file = follow(job, arguments.model)
            params = job.status().params if arguments.json else None
            _write(file, output)
        _report(file, output, params)
        return 0

    return run


def _destination(arguments: argparse.Namespace, format: Any, suffix: str) -> tuple[Path, "Format"]:  # noqa: ANN401
    """The output and its format: that of the file name, which ``format`` of --set must not contradict."""
    own = arguments.output and FORMATS.get(arguments.output.suffix.lower())
    if own and format not in (None, own):
        raise CommandError(f"{arguments.output} means {own}, but --set format={format}")
    named = next((ending for ending, each in FORMATS.items() if each == format), suffix)
    output = arguments.output or Path(f"{arguments.model}{named}")
    return output, cast("Format", own or format or FORMATS.get(output.suffix, "png"))


def _generation(arguments: argparse.Namespace, fields: dict[str, Any]) -> "Call[Any]":
    from service.client import calls

    return calls.generate(arguments.model, fields)


def _path(arguments: argparse.Namespace, fields: dict[str, Any]) -> "Call[Any]":
    from service.client import calls

    return calls.interpolate(arguments.model, [_end(arguments, "from"), _end(arguments, "to")], fields)


def _end(arguments: argparse.Namespace, end: str) -> "Point":
    found = {name: getattr(arguments, f"{end}_{name}") for name in ("seed", "image", "prompt")}
    return cast("Point", {name: value for name, value in found.items() if value is not None})


def _write(file: "File", output: Path) -> None:
    if output == STDOUT:
        sys.stdout.buffer.write(file.content)
        sys.stdout.flush()
    else:
        file.save(output)


def _report(file: "File", output: Path, params: dict[str, Any] | None) -> None:
    """Print what was generated, but never into the output."""
    if params is not None and output != STDOUT:
        about = {"model": file.model, "model_version": file.model_version, "seeds": file.seeds}
        print_json({"file": str(output), "media_type": file.media_type, **about, "params": params})
    else:
        seeds = ", ".join(str(seed) for seed in file.seeds[:2]) + (", ..." if file.seeds[2:] else "")
        summary = f"{output}: {file.model} {file.model_version}, seeds {seeds}"
        if output == STDOUT:
            say(summary)
        else:
            print(summary)


def _output(text: str) -> Path:
    path = Path(text)
    if path != STDOUT and path.suffix.lower() not in FORMATS:
        raise argparse.ArgumentTypeError(f"{text!r} does not end with one of {' '.join(FORMATS)}")
    return path


def _setting(text: str) -> tuple[str, Any]:
    """A field and its value, parsed as JSON if possible, else text."""
    name, found, value = text.partition("=")
    if not found or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=VALUE")
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value
