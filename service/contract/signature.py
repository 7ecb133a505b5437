"""Signatures of manifests: Ed25519 in minisign's formats, so that `minisign -Sm` and `minisign -Vm` work too.

A signed manifest has its signature beside it, in a file of the same name with `.minisig`. The formats are described at
https://jedisct1.github.io/minisign/. The cryptography library, of the extra `sign`, is loaded at the first use.
"""

import base64
import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from service.contract.files import ContractError, open_regular_file, replacing

#: Most bytes of a signature, or of a file with a key; minisign's have a few hundred.
MAX_BYTES = 8192
#: Most bytes of a file that is signed.
MAX_SIGNED_BYTES = 1 << 20
INSTALL = "pip install -e '.[sign]'"

_COMMENT, _TRUSTED = "untrusted comment: ", "trusted comment: "
#: What a signature is of: the BLAKE2b-512 of the file, or in minisign before version 0.10 the file itself.
_HASHED, _WHOLE = b"ED", b"Ed"
_NO_PASSWORD = b"\0\0"


class SignatureError(ContractError):
    """A signature is missing, malformed or false, or a key cannot be used."""


@dataclass(frozen=True)
class PublicKey:
    """`number` is the eight bytes by which a signature names its key, `point` the key's 32 bytes."""

    number: bytes
    point: bytes


@dataclass(frozen=True)
class SecretKey:
    """`seed` are the 32 bytes from which Ed25519 makes the key."""

    number: bytes
    seed: bytes


def signature_of(path: Path) -> Path:
    """The file with the signature of `path`."""
    return path.with_name(f"{path.name}.minisig")


@dataclass(frozen=True)
class Trust:
    """Which signed files are used. `keys` is the text of ``public_keys``; without keys all files are used.

    The keys are read for each check: a replaced key file applies to the next one.
    """

    keys: str = ""
    required: bool = False

    def check(self, path: Path, payload: bytes) -> None:
        """Check that one of the keys signed `payload`, the bytes of `path`. No signature passes unless `required`.

        Raises:
            SignatureError: the signature is missing, or is not one of `payload` by these keys; or a key is not valid.
        """
        if not (self.keys or self.required):
            return
        keys, file = public_keys(self.keys), signature_of(path)
        try:
            text = _text_of(file)
        except FileNotFoundError as failure:
            if self.required:
                raise SignatureError(path, f"not signed: there is no {file.name}") from failure
            return
        except OSError as failure:
            raise SignatureError(file, failure.strerror or "cannot be read") from failure
        _verify(file, text, payload, keys)


ANYONE = Trust()


def public_keys(text: str) -> tuple[PublicKey, ...]:
    """The keys of a setting: files of minisign, or the last lines of such files, separated by commas.

    Raises:
        SignatureError: a file cannot be read or has no such key, or the cryptography library is missing.
    """
    return tuple(_public_key(each.strip()) for each in text.split(",") if each.strip())


def read_secret_key(path: Path) -> SecretKey:
    """The key that `minisign -GW -p PUBLIC -s path` wrote.

    Raises:
        SignatureError: the file cannot be read, is no such key or has a password, or the library is missing.
    """
    try:
        text = _text_of(path)
    except OSError as failure:
        raise SignatureError(path, failure.strerror or "cannot be read") from failure
    content = _decoded(path, "".join(text[-1:]), 158, "secret key")
    if content[2:4] != _NO_PASSWORD:
        reason = "has a password: make a key without one by minisign -GW, or sign by minisign -Sm"
        raise SignatureError(path, reason)
    _require_cryptography(path)
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    number, seed, point = content[54:62], content[62:94], content[94:126]
    # Of a key without a password minisign writes no checksum.
    if Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw() != point:
        raise SignatureError(path, "damaged: its two halves do not belong together")
    return SecretKey(number, seed)


def sign(payload: bytes, key: SecretKey, file: str) -> bytes:
    """The content of the signature of `payload`, the bytes of the file named `file`."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.from_private_bytes(key.seed)
    signature = private.sign(hashlib.blake2b(payload).digest())
    trusted = f"timestamp:{int(time.time())}\tfile:{file}\thashed"
    of_both = private.sign(signature + trusted.encode())
    lines = (
        f"{_COMMENT}signature of genserve's trainer",
        base64.b64encode(_HASHED + key.number + signature).decode(),
        f"{_TRUSTED}{trusted}",
        base64.b64encode(of_both).decode(),
    )
    return "".join(f"{line}\n" for line in lines).encode()


def read_signed(path: Path) -> tuple[bytes, bytes | None]:
    """The bytes of a file and of its signature, None without one; cut at MAX_SIGNED_BYTES. Raises OSError."""
    with open_regular_file(path, follow_links=True) as file:
        payload = file.read(MAX_SIGNED_BYTES)
    try:
        with open_regular_file(signature_of(path), follow_links=True) as file:
            return payload, file.read(MAX_BYTES)
    except FileNotFoundError:
        return payload, None


def replace_signed(path: Path, payload: bytes, signature: bytes | None) -> None:
    """Replace a file, after its signature: who sees the new file finds its signature there. Raises OSError."""
    with replacing(path, payload):  # both are on the disk before the first is renamed
        if signature is None:
            signature_of(path).unlink(missing_ok=True)
        else:
            with replacing(signature_of(path), signature):
                pass


def _verify(file: Path, text: Sequence[str], payload: bytes, keys: Sequence[PublicKey]) -> None:
    if len(text) < 4 or not text[2].startswith(_TRUSTED):
        raise SignatureError(file, "not a signature of minisign")
    content = _decoded(file, text[1], 74, "signature", (_HASHED, _WHOLE))
    named = [key for key in keys if key.number == content[2:10]]
    if not named:
        raise SignatureError(file, f"signed by the key {_shown(content[2:10])}, which is not trusted")
    signed = hashlib.blake2b(payload).digest() if content[:2] == _HASHED else payload
    trusted = text[2].removeprefix(_TRUSTED).encode()
    try:
        of_both = base64.b64decode(text[3], validate=True)
    except ValueError:
        of_both = b""
    for key in named:
        if _signed(key, content[10:], signed) and _signed(key, of_both, content[10:] + trusted):
            return
    raise SignatureError(file, f"not the signature of {file.name.removesuffix('.minisig')}")


def _signed(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(key.point).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _public_key(given: str) -> PublicKey:
    path, line = Path(given[:64]), given
    if not _is_key(given):
        path = Path(given)
        try:
            lines = _text_of(path)
        except OSError as failure:
            reason = failure.strerror or "cannot be read"
            raise SignatureError(path, f"neither a public key nor a file with one ({reason})") from failure
        line = "".join(lines[-1:])
    content = _decoded(path, line, 42, "public key")
    _require_cryptography(path)
    return PublicKey(content[2:10], content[10:])


def _is_key(text: str) -> bool:
    return len(text) == 56 and text.startswith("RW")


def _decoded(path: Path, line: str, length: int, kind: str, algorithms: tuple[bytes, ...] = (_WHOLE,)) -> bytes:
    """The bytes of a line in base64. Raises SignatureError unless it has `length` of them, of one of `algorithms`."""
    try:
        content = base64.b64decode(line, validate=True)
    except ValueError:
        content = b""
    if len(content) != length or content[:2] not in algorithms:
        raise SignatureError(path, f"not a {kind} of minisign")
    return content


def _text_of(path: Path) -> list[str]:
    """The lines of a small file; none of a larger one, which is not minisign's. Raises OSError."""
    with open_regular_file(path, follow_links=True) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        return []
    return [line.rstrip("\r") for line in content.decode(errors="replace").rstrip().split("\n")]


def _shown(number: bytes) -> str:
    """As minisign shows it."""
    return number[::-1].hex().upper()


def _require_cryptography(path: Path) -> None:
    if find_spec("cryptography") is None:
        raise SignatureError(path, f"signatures need the package cryptography: {INSTALL}")
