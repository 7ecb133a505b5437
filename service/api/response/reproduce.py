"""The commands that reproduce a picture, and the file name to save it as."""

import re
import shlex

from pydantic_core import to_json
from starlette.requests import Request

from service.api.order import Order
from service.api.request.negotiation import FORMAT
from service.api.request.schemas import Params

_HOST = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")


def origin_of(request: Request) -> str:
    """Scheme, host and root path that ``request`` was sent to; localhost where its Host header is no valid host."""
    host = request.headers.get("host", "")
    origin = f"{request.scope['scheme']}://{host if _HOST.fullmatch(host) else 'localhost:8000'}"
    return origin + root_of(request)


def root_of(request: Request) -> str:
    """The path under which a proxy serves the service, the prefix of all its URLs; empty without one."""
    root: str = request.scope.get("root_path", "")
    return root


def file_name(order: Order, media: str) -> str:
    """The name to save an answer as: the model, the first seed if there is one, and the format."""
    seed = "" if order.seeds[0] is None else f"-{order.seeds[0]}"
    return f"{order.model.name}{seed}.{FORMAT.get(media, 'bin')}"


def curl(origin: str, path: str, params: Params, media: str, file: str) -> str:
    """A shell command that sends ``params`` to ``path`` and saves the answer of type ``media`` as ``file``."""
    words = ["curl", "-X", "POST", origin + path, "-H", f"Accept: {media}", "-d", to_json(params).decode(), "-o", file]
    return shlex.join(words)


def python(origin: str, path: str, params: Params, media: str, file: str) -> str:
    """The same as a line of Python that needs only the standard library."""
    body, headers = to_json(params).decode(), {"Accept": media}
    return (
        "import pathlib, urllib.request as r; "
        f"pathlib.Path({file!r}).write_bytes("
        f"r.urlopen(r.Request({origin + path!r}, {body!r}.encode(), {headers!r})).read())"
    )
