"""`genserve serve`, and the commands that change the models of a running service through its admin port."""

import argparse
import http.client
import json
import os
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

from service.cli.commands import Commands
from service.cli.extras import needing
from service.cli.terminal import CommandError, say

LOOPBACK = "127.0.0.1"
PORT_VARIABLE = "GENSERVE_ADMIN_PORT"
KEY_VARIABLE = "GENSERVE_API_KEY"
#: Options of `genserve serve`: their settings, placeholders and texts.
_SERVE_OPTIONS = {
    "--weights": ("GENSERVE_WEIGHTS_DIR", "DIR", "the folder with a sub-folder for each model; default: weights"),
    "--host": ("GENSERVE_HOST", "HOST", "the address to listen on; default: 127.0.0.1"),
    "--port": ("GENSERVE_PORT", "PORT", "the port to listen on; default: 8000"),
    "--device": ("GENSERVE_DEVICE", "DEVICE", "auto, cpu or cuda; default: auto"),
}
#: Timeout in seconds. Loading a version includes its warm-up, on a machine that serves requests meanwhile.
TIMEOUT_S = 600.0
#: More than any response of an admin port.
MOST_BYTES = 16 << 20


def add_commands(commands: Commands) -> None:
    """Add them to ``commands``."""
    _add_serve(commands)
    _add_operation(commands)


def _add_serve(commands: Commands) -> None:
    text = "serve the models of a weights folder"
    serve = commands.add_parser(
        "serve",
        help=f"{text} (python -m service)",
        description=f"{text.capitalize()} over HTTP, until Ctrl-C. `python -m service --help` lists all settings, "
        "which are environment variables; an option here takes the place of its variable.",
    )
    for option, (variable, metavar, help) in _SERVE_OPTIONS.items():
        serve.add_argument(option, dest=variable, metavar=metavar, help=f"{help} (${variable})")
    serve.set_defaults(run=_serve)


def _add_operation(commands: Commands) -> None:
    """Add the commands that change models."""
    port = argparse.ArgumentParser(add_help=False)
    port.add_argument("--admin-port", metavar="PORT", help=f"the service's admin port (default: ${PORT_VARIABLE})")
    for name, run, text in (
        ("load", _load, "serve a new or unloaded model"),
        ("reload", _reload, "serve the version that the manifest names, of one model or of all"),
        ("rollback", _roll_back, "serve an earlier version, and name it in the manifest"),
        ("unload", _unload, "stop serving a model, and free its memory"),
        ("versions", _versions, "list served and available versions"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".", parents=[port])
        command.set_defaults(run=_checked(run))
        if name != "versions":
            command.add_argument("model", nargs="?" if name == "reload" else None, help="name of its folder")
        if name == "rollback":
            command.add_argument(
                "version", nargs="?", help="eight characters; default: the version that was replaced last"
            )


def _checked(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    """``run``, with CommandError for responses that are not an admin port's."""

    def checked(arguments: argparse.Namespace) -> int:
        try:
            return run(arguments)
        except (AttributeError, KeyError, TypeError):
            raise _foreign(_port(arguments)) from None

    return checked


def _foreign(port: int) -> CommandError:
    return CommandError(f"port {port} is not an admin port of genserve")


def _serve(arguments: argparse.Namespace) -> int:
    given = {variable: getattr(arguments, variable) for variable, _, _ in _SERVE_OPTIONS.values()}
    os.environ.update({variable: text for variable, text in given.items() if text is not None})
    with needing("serve"):
        from service.__main__ import main as serve  # not at the top: other commands do without its packages

    return serve([])


def _load(arguments: argparse.Namespace) -> int:
    return _report([_request(arguments, "POST", f"/models/{_quoted(arguments.model)}/load")])


def _reload(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        return _report(_listed(_request(arguments, "POST", "/reload")))
    return _report([_request(arguments, "POST", f"/models/{_quoted(arguments.model)}/reload")])


def _roll_back(arguments: argparse.Namespace) -> int:
    version = f"?version={_quoted(arguments.version)}" if arguments.version else ""
    return _report([_request(arguments, "POST", f"/models/{_quoted(arguments.model)}/rollback{version}")])


def _unload(arguments: argparse.Namespace) -> int:
    return _report([_request(arguments, "POST", f"/models/{_quoted(arguments.model)}/unload")])


def _versions(arguments: argparse.Namespace) -> int:
    models = _listed(_request(arguments, "GET", "/models"))
    if any("earlier_versions" not in each for each in models):  # the public port has /models too
        raise _foreign(_port(arguments))
    for each in models:
        earlier = f", earlier: {' '.join(each['earlier_versions'])}" if each["earlier_versions"] else ""
        serving = f" {each['version']}" if each["version"] else ""
        print(f"{each['model']}: {each['state']}{serving}, manifest: {each['manifest_version'] or 'none'}{earlier}")
        if each["problem"]:
            print(f"  {each['problem']}")
    return 0


def _listed(answer: Any) -> list[dict[str, Any]]:  # noqa: ANN401  (JSON)
    if not isinstance(answer, list):
        raise TypeError(f"{type(answer)} is not a list")
    return answer


def _report(results: Sequence[dict[str, Any]]) -> int:
    """Print the outcome of each change; returns 1 if one failed."""
    for each in results:
        if "keys" in each:
            print(f"API keys: {each['keys']}")
        elif "outcome" in each:
            print(f"{each['model']}: {each['outcome']}, {each['previous'] or 'none'} -> {each['version'] or 'none'}")
            if each.get("note"):
                say(each["note"])
        else:
            say(f"error: {each['detail']}")
    return int(any("outcome" not in each for each in results))


def _request(arguments: argparse.Namespace, method: str, path: str) -> Any:  # noqa: ANN401  (JSON)
    """The response of the admin port. Raises CommandError if it is an error, or if there is none."""
    connection = http.client.HTTPConnection(LOOPBACK, _port(arguments), timeout=TIMEOUT_S)
    try:
        connection.request(method, path, headers=_key_header())
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


def _key_header() -> dict[str, str]:
    """The header for the API key of the environment, which needs the scope admin; none without one."""
    key = os.environ.get(KEY_VARIABLE, "")
    if not key.isascii() or (key and not key.isprintable()):
        raise CommandError(f"${KEY_VARIABLE} has characters that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _port(arguments: argparse.Namespace) -> int:
    text = os.environ.get(PORT_VARIABLE, "") if arguments.admin_port is None else arguments.admin_port
    if text.isdecimal() and len(text) <= 5 and 0 < int(text) < 65_536:
        return int(text)
    if text:
        raise CommandError(f"{text!r}, of --admin-port or ${PORT_VARIABLE}, is not a port number from 1 to 65535")
    raise CommandError(
        f"which port? Start the service with {PORT_VARIABLE} set, and set it here too or use --admin-port. "
        "Without an admin port, SIGHUP reloads models."
    )


def _quoted(name: str) -> str:
    """``name`` as part of a URL, even if the argument was not UTF-8."""
    return quote(name, safe="", errors="surrogatepass")
