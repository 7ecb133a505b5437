"""API keys: their file, which holds hashes only, and the search for the key that a request presents.

A line of the file, which is TOML: ``alice = { sha256 = "…", scopes = ["generate"], rate = 500 }``.
"""

import hmac
import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from secrets import token_urlsafe
from typing import Annotated, Literal, NamedTuple, get_args

import msgspec

from service.access.buckets import MOST, Bucket, Buckets

log = logging.getLogger(__name__)

Scope = Literal["generate", "metrics", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)

#: Begins every key that ``new_secret`` makes, so that scanners for leaked secrets can find it.
PREFIX = "gsk_"
#: Characters of a key that a client may present.
LONGEST = 256
#: Bytes of the file.
MOST_BYTES = 1 << 20

Name = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,64}\Z")]


class KeysRefused(Exception):
    """The file of keys cannot be used; ``str()`` says why, for the operator."""


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """A key in the file. ``rate``: device milliseconds per second; None for no limit of its own."""

    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[list[Scope], msgspec.Meta(min_length=1)]
    rate: Annotated[float, msgspec.Meta(ge=0.001, le=1e9)] | None = None


class ApiKey(msgspec.Struct, frozen=True, array_like=True):
    """A key: its name, the SHA-256 of its text, what it permits, its rate, and the place of its bucket."""

    name: str
    digest: bytes
    scopes: tuple[str, ...]
    rate_ms_per_s: float | None = None
    place: int = 0


class Caller(NamedTuple):
    """The key that a request presented."""

    key: ApiKey
    bucket: Bucket | None

    @property
    def client(self) -> str:
        """The client that work, jobs and answers are counted for; no address looks like this."""
        return f"key:{self.key.name}"


def digest_of(secret: str) -> bytes:
    """What is kept of a key. No salt and no slow hash: a key has 256 random bits, and cannot be guessed."""
    return sha256(secret.encode(errors="surrogatepass")).digest()


def new_secret() -> str:
    """A new key of 256 random bits."""
    return PREFIX + token_urlsafe(32)


def line_of(name: str, secret: str, scopes: Sequence[str], rate: float | None = None) -> str:
    """The line of the file for a key. Raises KeysRefused for a name, scope or rate that is not allowed."""
    quoted = ", ".join(f'"{scope}"' for scope in scopes)
    limit = "" if rate is None else f", rate = {rate!r}"
    line = f'{name} = {{ sha256 = "{digest_of(secret).hex()}", scopes = [{quoted}]{limit} }}'
    parse_keys(line.encode())
    return line


def read_keys(path: Path) -> list[ApiKey]:
    """The keys of a file. Raises KeysRefused."""
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as failure:
        raise KeysRefused(f"{path}: {failure.strerror}") from None
    if len(content) > MOST_BYTES:
        raise KeysRefused(f"{path}: larger than {MOST_BYTES} bytes")
    try:
        return parse_keys(content)
    except KeysRefused as failure:
        raise KeysRefused(f"{path}: {failure}") from None


def parse_keys(content: bytes) -> list[ApiKey]:
    """The keys in the text of a file, at least one. Raises KeysRefused."""
    try:
        entries = msgspec.toml.decode(content, type=dict[Name, Entry])
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, RecursionError) as failure:
        raise KeysRefused(str(failure)) from None
    keys = [
        ApiKey(name, bytes.fromhex(entry.sha256), tuple(entry.scopes), entry.rate) for name, entry in entries.items()
    ]
    if not keys:
        raise KeysRefused("it has no key, so that no request would be answered")
    if len(keys) > MOST:
        raise KeysRefused(f"it has {len(keys)} keys, and the limit is {MOST}")
    if len({key.digest for key in keys}) < len(keys):
        raise KeysRefused("two names have the same key")
    return keys


class KeyRing:
    """The keys of a running service. None: there are no keys, and every request is answered."""

    def __init__(self, keys: Sequence[ApiKey] | None = None, buckets: Buckets | None = None) -> None:
        self._buckets = Buckets() if buckets is None else buckets
        self._callers: Sequence[Caller] | None = None
        self.replace(keys)

    @property
    def required(self) -> bool:
        """Whether a request needs a key."""
        return self._callers is not None

    def replace(self, keys: Sequence[ApiKey] | None) -> None:
        """Use ``keys`` from now on."""
        self._callers = None if keys is None else [Caller(key, self._bucket(key)) for key in keys]

    def find(self, secret: str) -> Caller | None:
        """The key with the text ``secret``; takes as long whichever it is, and whether there is one."""
        digest = digest_of(secret[:LONGEST])
        found = None
        for caller in self._callers or ():
            if hmac.compare_digest(caller.key.digest, digest):
                found = caller
        return found if len(secret) <= LONGEST else None

    def _bucket(self, key: ApiKey) -> Bucket | None:
        return None if key.rate_ms_per_s is None else self._buckets.bucket(key.place, key.rate_ms_per_s)


class KeyFile:
    """The file of keys. ``keys`` and ``ring`` are those that it held when it was last valid.

    A key keeps its bucket when the file is read again. ``changed`` is called after that. Raises KeysRefused if the file
    is not valid at first.
    """

    def __init__(self, path: Path, buckets: Buckets, changed: Callable[[], object] = lambda: None) -> None:
        self._path, self._buckets, self._changed = path, buckets, changed
        self._places: dict[str, int] = {}
        self.keys = self._read()
        self.ring = KeyRing(self.keys, buckets)

    def reload(self) -> int:
        """Read the file again; returns the number of keys. Raises KeysRefused, and then the keys stay as they are."""
        try:
            self.keys = self._read()
        except KeysRefused as failure:
            log.error("API keys not changed", extra={"reason": str(failure)})
            raise
        self.ring.replace(self.keys)
        self._changed()
        log.info("API keys read", extra={"keys": len(self.keys)})
        return len(self.keys)

    def _read(self) -> list[ApiKey]:
        read = read_keys(self._path)
        names = {key.name for key in read}
        self._places = {name: place for name, place in self._places.items() if name in names}
        free = iter(sorted({*range(MOST)} - {*self._places.values()}))
        for key in read:
            if key.name not in self._places:
                self._places[key.name] = place = next(free)
                self._buckets.fill(place)
        return [msgspec.structs.replace(key, place=self._places[key.name]) for key in read]
