"""Keys of minisign for tests, made without minisign."""

import base64
from dataclasses import dataclass
from pathlib import Path

import pytest

from service.contract.signature import SecretKey, sign, signature_of

pytest.importorskip("cryptography", reason="signatures need the extra `sign`")

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


@dataclass(frozen=True)
class Pair:
    """A key: `public` is its line as minisign prints it, `secret` signs."""

    public: str
    secret: SecretKey

    def sign(self, path: Path) -> None:
        """Sign a file as it is."""
        signature_of(path).write_bytes(sign(path.read_bytes(), self.secret, path.name))


def pair(seed: int) -> Pair:
    number, secret = bytes([seed]) * 8, bytes([seed]) * 32
    point = Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()
    return Pair(base64.b64encode(b"Ed" + number + point).decode(), SecretKey(number, secret))


def write_secret(path: Path, key: SecretKey, kdf: bytes = b"\0\0") -> None:
    """The key's file as `minisign -GW` writes it."""
    point = Ed25519PrivateKey.from_private_bytes(key.seed).public_key().public_bytes_raw()
    content = b"Ed" + kdf + b"B2" + bytes(48) + key.number + key.seed + point + bytes(32)
    path.write_text(f"untrusted comment: minisign secret key\n{base64.b64encode(content).decode()}\n")
