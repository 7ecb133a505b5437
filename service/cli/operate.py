"""`genserve serve`, and the commands that change the models of a running service: they go to its admin port."""

import argparse
import http.client
import json
import os
import sys
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from service.cli.asking import CommandError
from service.cli.commands import Commands

LOOPBACK = "127.0.0.1"
PORT_VARIABLE = "GENSERVE_ADMIN_PORT"
#: Loading a version takes as long as its first calls do, on a machine that serves meanwhile.
PATIENCE_S = 600.0


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    _add_serve(commands)
    _add_operation(commands)


def _add_serve(commands: Commands) -> None:
    serve = commands.add_parser("serve", help="serve the models in the weights folder (python -m service)")
    serve.set_defaults(run=_serve)


def _add_operation(commands: Commands) -> None:
    """The commands that change models."""
    port = argparse.ArgumentParser(add_help=False)
    port.add_argument(
        "--admin-port", type=int, metavar="PORT", help=f"the service's admin port (default: ${PORT_VARIABLE})"
    )
    for name, run, text in (
        ("load", _load, "serve a model whose folder is new, or that was unloaded"),
        ("reload", _reload, "serve the version that the manifest names; of all models, if none is named"),
        ("rollback", _roll_back, "make an earlier version the manifest's, and serve it"),
        ("unload", _unload, "take no more requests for a model, and give its memory back"),
        ("versions", _versions, "which versions serve, and which ones there are"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", parents=[port])
        command.set_defaults(run=run)
        if name != "versions":
            command.add_argument("model", nargs="?" if name == "reload" else None, help="its folder's name")
        if name == "rollback":
            command.add_argument("version", nargs="?", help="eight characters; default: the one replaced last")


def _serve(asked: argparse.Namespace) -> int:  # noqa: ARG001
    from service.__main__ import main as serve  # here, because importing it loads torch

    return serve([])


def _load(asked: argparse.Namespace) -> int:
    return _tell([_ask(asked, "POST", f"/models/{quote(asked.model, safe='')}/load")])


def _reload(asked: argparse.Namespace) -> int:
    if asked.model is None:
        return _tell(_ask(asked, "POST", "/reload"))
    return _tell([_ask(asked, "POST", f"/models/{quote(asked.model, safe='')}/reload")])


def _roll_back(asked: argparse.Namespace) -> int:
    version = f"?version={quote(asked.version, safe='')}" if asked.version else ""
    return _tell([_ask(asked, "POST", f"/models/{quote(asked.model, safe='')}/rollback{version}")])


def _unload(asked: argparse.Namespace) -> int:
    return _tell([_ask(asked, "POST", f"/models/{quote(asked.model, safe='')}/unload")])


def _versions(asked: argparse.Namespace) -> int:
    models = _ask(asked, "GET", "/models")
    if any("earlier_versions" not in each for each in models):  # the public port has a list of that name too
        raise CommandError(f"what answers on port {_port(asked)} is no admin port of genserve")
    for each in models:
        earlier = f", earlier: {' '.join(each['earlier_versions'])}" if each["earlier_versions"] else ""
        serving = f" {each['version']}" if each["version"] else ""
        print(f"{each['model']}: {each['state']}{serving}, manifest: {each['manifest_version'] or 'none'}{earlier}")
        if each["problem"]:
            print(f"  {each['problem']}")
    return 0


def _tell(results: Sequence[dict[str, Any]]) -> int:
    """Print what became of each model; returns 1 when one of them failed."""
    for each in results:
        if "outcome" in each:
            print(f"{each['model']}: {each['outcome']}, {each['previous'] or 'none'} -> {each['version'] or 'none'}")
        else:
            print(f"error: {each['detail']}", file=sys.stderr)
    return int(any("outcome" not in each for each in results))


def _ask(asked: argparse.Namespace, method: str, path: str) -> Any:  # noqa: ANN401  (JSON)
    """What the admin port answers. Raises CommandError with what it refuses, or why it cannot be asked."""
    connection = http.client.HTTPConnection(LOOPBACK, _port(asked), timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except OSError as failure:
        raise CommandError(f"no service answers on port {connection.port}: {failure.strerror or failure}") from None
    except (http.client.HTTPException, ValueError):
        raise CommandError(f"what answers on port {connection.port} is no admin port of genserve") from None
    finally:
        connection.close()
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise CommandError(answer["detail"])
    return answer


def _port(asked: argparse.Namespace) -> int:
    if asked.admin_port is not None:
        return int(asked.admin_port)
    text = os.environ.get(PORT_VARIABLE, "")
    if not text.isdecimal():
        raise CommandError(
            f"which port? Start the service with {PORT_VARIABLE} set, and set it here too or give --admin-port. "
            "Without one, SIGHUP reloads."
        )
    return int(text)
