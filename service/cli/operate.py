"""`genserve serve`, and the commands that change the models of a running service: they go to its admin port."""

import argparse
import http.client
import json
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from service.cli.commands import Commands
from service.cli.terminal import CommandError, say

LOOPBACK = "127.0.0.1"
PORT_VARIABLE = "GENSERVE_ADMIN_PORT"
#: Loading a version takes as long as its first calls do, on a machine that serves meanwhile.
PATIENCE_S = 600.0
#: More than any admin port answers.
MOST_BYTES = 16 << 20


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
    port.add_argument("--admin-port", metavar="PORT", help=f"the service's admin port (default: ${PORT_VARIABLE})")
    for name, run, text in (
        ("load", _load, "serve a model whose folder is new, or that was unloaded"),
        ("reload", _reload, "serve the version that the manifest names; of all models, if none is named"),
        ("rollback", _roll_back, "make an earlier version the manifest's, and serve it"),
        ("unload", _unload, "take no more requests for a model, and give its memory back"),
        ("versions", _versions, "which versions serve, and which ones there are"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", parents=[port])
        command.set_defaults(run=_checked(run))
        if name != "versions":
            command.add_argument("model", nargs="?" if name == "reload" else None, help="its folder's name")
        if name == "rollback":
            command.add_argument("version", nargs="?", help="eight characters; default: the one replaced last")


def _checked(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``run``, where an answer that has not the members of an admin port's is a CommandError."""

    def checked(asked: argparse.Namespace) -> int:
        try:
            return run(asked)
        except (AttributeError, KeyError, TypeError):
            raise _foreign(_port(asked)) from None

    return checked


def _foreign(port: int) -> CommandError:
    return CommandError(f"what answers on port {port} is no admin port of genserve")


def _serve(asked: argparse.Namespace) -> int:  # noqa: ARG001
    from service.__main__ import main as serve  # here, because importing it loads torch

    return serve([])


def _load(asked: argparse.Namespace) -> int:
    return _tell([_ask(asked, "POST", f"/models/{_quoted(asked.model)}/load")])


def _reload(asked: argparse.Namespace) -> int:
    if asked.model is None:
        return _tell(_listed(_ask(asked, "POST", "/reload")))
    return _tell([_ask(asked, "POST", f"/models/{_quoted(asked.model)}/reload")])


def _roll_back(asked: argparse.Namespace) -> int:
    version = f"?version={_quoted(asked.version)}" if asked.version else ""
    return _tell([_ask(asked, "POST", f"/models/{_quoted(asked.model)}/rollback{version}")])


def _unload(asked: argparse.Namespace) -> int:
    return _tell([_ask(asked, "POST", f"/models/{_quoted(asked.model)}/unload")])


def _versions(asked: argparse.Namespace) -> int:
    models = _listed(_ask(asked, "GET", "/models"))
    if any("earlier_versions" not in each for each in models):  # the public port has a list of that name too
        raise _foreign(_port(asked))
    for each in models:
        earlier = f", earlier: {' '.join(each['earlier_versions'])}" if each["earlier_versions"] else ""
        serving = f" {each['version']}" if each["version"] else ""
        print(f"{each['model']}: {each['state']}{serving}, manifest: {each['manifest_version'] or 'none'}{earlier}")
        if each["problem"]:
            print(f"  {each['problem']}")
    return 0


def _listed(answer: Any) -> list[dict[str, Any]]:  # noqa: ANN401  (JSON)
    if not isinstance(answer, list):
        raise TypeError(f"{type(answer)} is no list")
    return answer


def _tell(results: Sequence[dict[str, Any]]) -> int:
    """Print what became of each model; returns 1 when one of them failed."""
    for each in results:
        if "outcome" in each:
            print(f"{each['model']}: {each['outcome']}, {each['previous'] or 'none'} -> {each['version'] or 'none'}")
        else:
            say(f"error: {each['detail']}")
    return int(any("outcome" not in each for each in results))


def _ask(asked: argparse.Namespace, method: str, path: str) -> Any:  # noqa: ANN401  (JSON)
    """What the admin port answers. Raises CommandError with what it refuses, or why it cannot be asked."""
    connection = http.client.HTTPConnection(LOOPBACK, _port(asked), timeout=PATIENCE_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        answer = json.loads(response.read(MOST_BYTES))
    except OSError as failure:
        raise CommandError(f"no service answers on port {connection.port}: {failure.strerror or failure}") from None
    except (http.client.HTTPException, ValueError, RecursionError):
        raise _foreign(connection.port) from None
    finally:
        connection.close()
    if response.status >= http.HTTPStatus.BAD_REQUEST:
        raise CommandError(answer["detail"])
    return answer


def _port(asked: argparse.Namespace) -> int:
    text = os.environ.get(PORT_VARIABLE, "") if asked.admin_port is None else asked.admin_port
    if text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65_536:
        return int(text)
    if text:
        raise CommandError(f"{text!r}, of --admin-port or ${PORT_VARIABLE}, is no port: a number from 1 to 65535")
    raise CommandError(
        f"which port? Start the service with {PORT_VARIABLE} set, and set it here too or give --admin-port. "
        "Without one, SIGHUP reloads."
    )


def _quoted(name: str) -> str:
    """``name`` as part of an address, even where the argument was not UTF-8."""
    return quote(name, safe="", errors="surrogatepass")
