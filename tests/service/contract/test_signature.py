import base64
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from service.contract import signature
from service.contract.signature import ANYONE, MAX_BYTES, SignatureError, Trust, public_keys, read_secret_key, sign

pytest.importorskip("cryptography", reason="signatures need the extra `sign`")

from tests.service.contract.signing import Pair, pair, write_secret

OURS, OTHERS = pair(1), pair(2)
PAYLOAD = b'{"name": "vae"}\n'
TRUST = Trust(OURS.public, required=True)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    path = tmp_path / "manifest.json"
    path.write_bytes(PAYLOAD)
    OURS.sign(path)
    return path


def test_what_we_signed_is_accepted(signed: Path) -> None:
    TRUST.check(signed, PAYLOAD)
    Trust(f"{OTHERS.public}, {OURS.public}", required=True).check(signed, PAYLOAD)


def test_any_change_is_refused(signed: Path) -> None:
    """Of the payload, and of each byte of the signature but its first line, which is untrusted."""
    with pytest.raises(SignatureError, match=r"minisig: not the signature of manifest\.json"):
        TRUST.check(signed, PAYLOAD.replace(b"vae", b"gan"))
    file = signature.signature_of(signed)
    good = file.read_bytes()
    for place in range(good.index(b"\n") + 1, len(good) - 1):
        file.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(SignatureError, match=file.name):
            TRUST.check(signed, PAYLOAD)


def test_without_a_signature_a_file_passes_unless_one_is_required(signed: Path) -> None:
    signature.signature_of(signed).unlink()
    Trust(OURS.public).check(signed, PAYLOAD)
    with pytest.raises(SignatureError, match=r"manifest\.json: not signed: there is no manifest\.json\.minisig"):
        TRUST.check(signed, PAYLOAD)


def test_who_trusts_anyone_reads_no_signature(signed: Path) -> None:
    signature.signature_of(signed).write_text("nonsense")
    ANYONE.check(signed, PAYLOAD)


@pytest.mark.parametrize("required", [True, False])
def test_the_signature_of_another_key_is_refused(signed: Path, required: bool) -> None:
    OTHERS.sign(signed)
    with pytest.raises(SignatureError, match="signed by the key 0202020202020202, which is not trusted"):
        Trust(OURS.public, required=required).check(signed, PAYLOAD)


def test_a_key_with_our_number_is_not_our_key(signed: Path) -> None:
    forged = Pair("", signature.SecretKey(OURS.secret.number, OTHERS.secret.seed))
    forged.sign(signed)
    with pytest.raises(SignatureError, match="not the signature of"):
        TRUST.check(signed, PAYLOAD)


@pytest.mark.parametrize("content", [b"", b"\n\n\n\n", b"x" * (MAX_BYTES + 1), b"\xff\x00" * 20])
def test_what_is_no_signature_is_refused(signed: Path, content: bytes) -> None:
    signature.signature_of(signed).write_bytes(content)
    with pytest.raises(SignatureError, match="not a signature of minisign"):
        Trust(OURS.public).check(signed, PAYLOAD)


def test_the_older_kind_of_signature_is_accepted(signed: Path) -> None:
    """Of the file itself instead of its hash: the default of minisign before version 0.10."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(OURS.secret.seed)
    one = key.sign(PAYLOAD)
    lines = ("untrusted comment: old", _base64(b"Ed" + OURS.secret.number + one), "trusted comment: hi")
    text = "\n".join((*lines, _base64(key.sign(one + b"hi"))))
    signature.signature_of(signed).write_text(text)
    TRUST.check(signed, PAYLOAD)


def test_keys_are_given_as_text_or_files(tmp_path: Path) -> None:
    path = tmp_path / "minisign.pub"
    path.write_text(f"untrusted comment: minisign public key 0101010101010101\n{OURS.public}\n")
    assert public_keys(f"{path}, {OTHERS.public}") == (*public_keys(OURS.public), *public_keys(OTHERS.public))
    assert public_keys("") == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nowhere.pub", "neither a public key nor a file with one"),
        ("R" * 56, "neither"),
        ("RW" + "/" * 54, "not a pub"),
    ],
)
def test_a_bad_public_key_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(SignatureError, match=reason):
        public_keys(text)


def test_a_secret_key_is_read(tmp_path: Path) -> None:
    write_secret(tmp_path / "key", OURS.secret)
    assert read_secret_key(tmp_path / "key") == OURS.secret


def with_password(path: Path) -> None:
    write_secret(path, OURS.secret, kdf=b"Sc")


def damaged(path: Path) -> None:
    write_secret(path, OURS.secret)
    content = bytearray(base64.b64decode(path.read_text().splitlines()[1]))
    content[70] ^= 1
    path.write_text(f"untrusted comment: x\n{_base64(bytes(content))}\n")


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (with_password, "has a password: make a key without one by minisign -GW"),
        (damaged, "its two halves do not belong"),
        (lambda path: path.write_text(OURS.public), "not a secret key of minisign"),
        (lambda path: path.write_text(""), "not a secret key of minisign"),
        (lambda path: None, "No such file"),
    ],
)
def test_a_bad_secret_key_is_an_error(tmp_path: Path, write: Callable[[Path], object], reason: str) -> None:
    write(tmp_path / "key")
    with pytest.raises(SignatureError, match=reason):
        read_secret_key(tmp_path / "key")


def test_without_the_library_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "find_spec", lambda name: None)
    with pytest.raises(SignatureError, match=r"pip install -e '\.\[sign\]'"):
        public_keys(OURS.public)


@pytest.fixture
def minisign() -> str:
    command = shutil.which("minisign")
    if command is None:
        pytest.skip("no minisign command: Debian's package minisign")
    return command


def test_minisign_accepts_our_signature(signed: Path, minisign: str) -> None:
    subprocess.run([minisign, "-Vm", signed, "-P", OURS.public], check=True, capture_output=True)
    signed.write_bytes(b"other")
    done = subprocess.run([minisign, "-Vm", signed, "-P", OURS.public], check=False, capture_output=True)
    assert done.returncode != 0


@pytest.mark.parametrize("kind", [[], ["-H"], ["-l"]])
def test_we_accept_keys_and_signatures_of_minisign(signed: Path, minisign: str, kind: list[str]) -> None:
    public, secret = signed.with_name("minisign.pub"), signed.with_name("minisign.key")
    subprocess.run([minisign, "-G", "-W", "-p", public, "-s", secret], check=True, capture_output=True)
    subprocess.run([minisign, "-S", *kind, "-m", signed, "-s", secret], check=True, capture_output=True)
    trust = Trust(str(public), required=True)
    trust.check(signed, PAYLOAD)
    signature.signature_of(signed).write_bytes(sign(PAYLOAD, read_secret_key(secret), signed.name))
    trust.check(signed, PAYLOAD)
    subprocess.run([minisign, "-Vm", signed, "-p", public], check=True, capture_output=True)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
