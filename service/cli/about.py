"""`genserve models` and `genserve inspect`: what a service has, and what made a picture."""

import argparse
import json
from collections.abc import Sequence

from service.cli.asking import asking, print_json, service_of
from service.cli.commands import Commands
from service.cli.files import read_input

#: Characters of a parameter that people are shown.
LONGEST = 80


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    models = commands.add_parser("models", help="what is served", description="What is served.", parents=[asking()])
    models.set_defaults(run=_models)
    text = "what made a picture of the service, and how to make it again"
    inspect = commands.add_parser("inspect", help=text, description=text.capitalize() + ".", parents=[asking()])
    inspect.add_argument("file", help="a PNG as the service sent it; - is standard input")
    inspect.set_defaults(run=_inspect)


def _models(asked: argparse.Namespace) -> int:
    with service_of(asked) as service:
        found = service.models()
    if asked.json:
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
    """``rows`` as lines whose columns stand below one another."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _inspect(asked: argparse.Namespace) -> int:
    picture = read_input(asked.file)
    with service_of(asked) as service:
        found = service.inspect(picture)
    if asked.json:
        print_json(found)
        return 0
    here = {None: "not served here", found.model_version: "served here"}.get(
        found.served_version, f"here it is {found.served_version}, which makes other pictures"
    )
    print(f"{found.model} {found.model_version}, {here}")
    for name, value in found.params.items():
        print(f"  {name}: {_shortened(json.dumps(value))}")
    print(found.curl)
    return 0


def _shortened(text: str) -> str:
    """``text`` as far as a line holds it: a picture that was sent is among the parameters."""
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
