"""The name that a request has in its answer, in errors and in what is done with it later."""

import re
from collections.abc import MutableMapping
from random import getrandbits
from typing import Any

from service.request_info import info_of

VALID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
HEADER = b"x-request-id"


def request_id(scope: MutableMapping[str, Any]) -> str:
    """The id of the request that ``scope`` is of: the client's own X-Request-Id if it is valid, else a new one.

    Always the same for one scope.
    """
    info = info_of(scope)
    if info.request_id is None:
        info.request_id = _given(scope) or f"{getrandbits(96):024x}"
    return info.request_id


def _given(scope: MutableMapping[str, Any]) -> str | None:
    for name, value in scope["headers"]:
        if name == HEADER:
            return value.decode() if VALID.fullmatch(value) else None
    return None
