"""`genserve models` and `genserve inspect`: the served models, and how a picture was generated."""

import argparse
import json
from collections.abc import Sequence

from service.cli.asking import asking, print_json, service_of
from service.cli.commands import Commands
from service.cli.files import read_input

#: Maximum number of characters shown of a parameter.
LONGEST = 80


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    models = commands.add_parser(
        "models", help="list the served models", description="List the served models.", parents=[asking()]
    )
    models.set_defaults(run=_models)
    text = "show how a picture was generated, and how to generate it again"
    inspect = commands.add_parser("inspect", help=text, description=text.capitalize() + ".", parents=[asking()])
    inspect.add_argument("file", help="a PNG that the service generated; - is standard input")
    inspect.set_defaults(run=_inspect)


def _models(arguments: argparse.Namespace) -> int:
    with service_of(arguments) as service:
        found = service.models()
    if arguments.json:
        print_json(found)
        return 0
    heads = ("MODEL", "FAMILY", "VERSION", "PICTURES", "CLASSES", "CAN")
    rows = [
        (
            model.name,
            model.family,
            model.version,
            " x ".join(str(size) for size in model.image_shape),
            str(len(model.class_names)),
            ", ".join(model.does or model.capabilities),
        )
        for model in found
    ]
    print("\n".join(table([heads, *rows])))
    return 0


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """``rows`` as lines with aligned columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _inspect(arguments: argparse.Namespace) -> int:
    picture = read_input(arguments.file)
    with service_of(arguments) as service:
        found = service.inspect(picture)
    if arguments.json:
        print_json(found)
        return 0
    here = {None: "not served here", found.model_version: "served here"}.get(
        found.served_version, f"{found.served_version} is served here, which generates other pictures"
    )
    print(f"{found.model} {found.model_version}, {here}")
    for name, value in found.params.items():
        print(f"  {name}: {_shortened(json.dumps(value))}")
    print(found.curl)
    return 0


def _shortened(text: str) -> str:
    """The beginning of ``text``: an uploaded picture, for example, is a long parameter."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
